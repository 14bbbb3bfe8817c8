"""What the page of an ablation adds to the doctor's style."""

from serkd.report.doctor_style import STYLE

# blue and vermilion stay apart for every kind of colour vision; signs say the same in words
ANSWER_STYLE = (
    STYLE
    + """
:root { --helps: #0b5fae; --hurts: #b3401a; }
@media (prefers-color-scheme: dark) { :root { --helps: #7db8f5; --hurts: #ff9d75; } }
.helps { --level: var(--helps); } .hurts { --level: var(--hurts); }
.equivalent, .undecided, .reference { --level: var(--soft); }
.verdict { color: var(--level); font-weight: 600; }
.banner { border: 1px solid var(--warning); border-left-width: 4px; border-radius: .4rem;
  padding: .5rem 1rem; background: var(--card); }
.question { font-size: 1.15rem; margin: .3rem 0 1rem; overflow-wrap: anywhere; }
.answers { padding-left: 1.2rem; } .answers li { margin: .25rem 0; overflow-wrap: anywhere; }
.notes { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
main { max-width: 84rem; }
.words { margin-top: .8rem; }
.long { display: inline-block; white-space: normal; overflow-wrap: anywhere; vertical-align: top;
  width: max-content; max-width: 24rem; }
code { overflow-wrap: anywhere; }
.forest { display: grid; grid-auto-flow: dense; gap: .1rem .8rem; align-items: center;
  grid-template-columns: minmax(7rem, 2fr) 4fr minmax(9.5rem, auto); font-size: .93rem;
  font-variant-numeric: tabular-nums; }
.forest .name { overflow-wrap: anywhere; padding: .25rem 0; }
.forest .name { grid-column: 1; } .forest .track, .scale { grid-column: 2; }
.forest .value { grid-column: 3; text-align: right; white-space: nowrap; }
.track { position: relative; height: 1.5rem; }
.track i { position: absolute; display: block; }
.zone { top: 0; bottom: 0; background: var(--card); border-left: 1px dotted var(--line);
  border-right: 1px dotted var(--line); }
.zero { top: 0; bottom: 0; width: 1px; background: var(--soft); }
.span { top: calc(50% - 1px); height: 2px; background: var(--level); }
.wide-span { top: calc(50% - 3px); height: 6px; background: var(--level); opacity: .35; }
.mid { top: calc(50% - 5px); width: 10px; height: 10px; margin-left: -5px; border-radius: 50%;
  background: var(--level); }
.undecided .mid, .equivalent .mid { background: var(--paper); border: 2px solid var(--level); }
.scale { position: relative; height: 1.3rem; color: var(--soft); font-size: .78rem; }
.scale span { position: absolute; transform: translateX(-50%); }
.legend { color: var(--soft); font-size: .85rem; margin: .4rem 0 0; }
@media (max-width: 40rem) { .forest { grid-template-columns: 1fr auto; }
  .forest .track, .forest .scale { grid-column: 1 / -1; }
  .forest .value { grid-column: 2; } .forest .name { padding-bottom: 0; }
  .long { max-width: 11rem; } }
svg.chart { overflow: visible; } svg.chart text { font-size: 10px; fill: var(--soft); }
.rule { stroke: var(--line); stroke-width: 1; }
.fold { fill: var(--soft); opacity: .55; } .mean { stroke: var(--fill); stroke-width: 3; }
polyline { fill: none; stroke-width: 2; }
polyline.front { stroke: var(--fill); } polyline.behind { stroke: var(--soft);
  stroke-dasharray: 4 3; }
circle.front { fill: var(--fill); } circle.behind { fill: var(--paper); stroke: var(--soft);
  stroke-width: 1.5; }
figcaption { overflow-wrap: anywhere; } figcaption ol { margin: .2rem 0; padding-left: 1.4rem; }
#arms th, #arms td { padding: .25rem .45rem; }
.matrices { grid-template-columns: repeat(auto-fill,
  minmax(min(100%, calc(6rem + var(--classes) * 3rem)), 1fr)); }
.matrix td, .matrix th { padding: .15rem .4rem; font-size: .8rem; }
"""
)
