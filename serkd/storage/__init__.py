"""Storage that all machines see: a folder, or an object store behind a folder of each machine."""
