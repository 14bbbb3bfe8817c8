"""How the doctor's page looks, in light and dark."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d7dce1; --fill: #2f6db3;
  --error: #b3261e; --warning: #855300; --note: #31557f; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181d; --ink: #e4e8ec; --soft: #9da7b1; --line: #343b43; --fill: #6aa5e8;
  --error: #ff8f86; --warning: #edbd55; --note: #9cc0ee; --card: #1c2128; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0; }
.size { color: var(--soft); margin: .2rem 0 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; margin: 0; padding: 0; }
.tiles li { border: 1px solid var(--line); border-radius: .5rem; padding: .3rem .9rem;
  background: var(--card); }
.tiles b { font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.error { --level: var(--error); } .warning { --level: var(--warning); }
.note { --level: var(--note); }
.tiles b, .finding h3 { color: var(--level); }
.finding { border-left: 4px solid var(--level); background: var(--card); padding: .6rem 1rem;
  margin: 0 0 .7rem; border-radius: 0 .4rem .4rem 0; }
.finding ul { margin: .3rem 0 0; padding-left: 1.3rem; list-style: none; }
.finding li { overflow-wrap: anywhere; }
.mark { display: inline-block; width: 1.3em; font-weight: 700; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
li p { margin: .1rem 0 .4rem; font-size: .85rem; color: var(--soft); }
details p { max-height: 16rem; overflow-y: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--paper); }
.n { text-align: right; }
td:has(.bar) { min-width: 9rem; }
.bar { height: .8rem; background: var(--fill); border-radius: 0 .2rem .2rem 0; }
.heat { display: block; margin: -.25rem -.7rem; padding: .25rem .7rem;
  background: color-mix(in srgb, var(--fill) calc(var(--share) * .6), transparent); }
@media (max-width: 40rem) { td:has(.bar) { min-width: 4rem; } th, td { padding: .25rem .45rem; }
  .heat { margin: -.25rem -.45rem; padding: .25rem .45rem; } }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr));
  gap: 1.2rem; }
figure { margin: 0; } figcaption { font-size: .9rem; color: var(--soft); }
figcaption b { color: var(--ink); }
svg { width: 100%; height: auto; display: block; } svg rect { fill: var(--fill); }
.axis { stroke: var(--soft); }
.median { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 4 3; }
.ticks { display: flex; justify-content: space-between; color: var(--soft); font-size: .78rem; }
"""
