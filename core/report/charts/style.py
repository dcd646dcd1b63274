"""The style sheet, shared by the page and by the stand-alone figures.

Two colours run through everything: blue for images, orange for texts. Green is a pair or a right answer, grey a
non-pair, red a wrong answer. Both modes keep a contrast of at least 4.5 to 1 between text and ground.
"""

COLOURS = """
:root{color-scheme:light dark;--ground:#f4f5f7;--card:#fff;--ink:#16191d;--muted:#5a6370;--rule:#e1e4e9;--grid:#eceef1;
  --image:#3558d6;--text:#b4540a;--pair:#0d7a55;--other:#7a8594;--wrong:#b8322a;--on-shade:#fff}
@media (prefers-color-scheme:dark){
:root{--ground:#0e1115;--card:#171b21;--ink:#e9ecf0;--muted:#9ba6b4;--rule:#2b323b;--grid:#232930;--image:#93a9ff;
  --text:#f2a562;--pair:#4fcb9d;--other:#8793a3;--wrong:#ff8d82;--on-shade:#0e1115}}
"""

FIGURES = """
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-size:11px}
svg text{fill:var(--ink);font-variant-numeric:tabular-nums}
svg .tick{fill:var(--muted)}
svg .label{fill:var(--muted)}
.grid{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--rule);stroke-width:1}
.place{stroke:var(--muted);stroke-width:1;stroke-dasharray:4 3}
.mark{stroke:var(--muted);stroke-width:1;stroke-dasharray:3 3;opacity:.75}
.line,.faint{fill:none;stroke-linejoin:round;stroke-linecap:round}
.line{stroke-width:2}
.faint{stroke-width:1;opacity:.32}
.line.image,.faint.image{stroke:var(--image)}
.line.text{stroke:var(--text)}
.line.pair{stroke:var(--pair)}
.line.other{stroke:var(--other)}
.line.wrong{stroke:var(--wrong)}
.dot.image{fill:var(--image)}
.dot.text{fill:var(--text)}
.dot.pair{fill:var(--pair)}
.dot.other{fill:var(--other)}
.dot.wrong{fill:var(--wrong)}
.dot{stroke:var(--card);stroke-width:.6}
.ring{fill:var(--card);stroke-width:1.5}
.ring.pair{stroke:var(--pair)}
svg .name.image{fill:var(--image)}
svg .name.text{fill:var(--text)}
svg .name.pair{fill:var(--pair)}
svg .name.other{fill:var(--muted)}
svg .name.wrong{fill:var(--wrong)}
svg .name{font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
.area{stroke-width:1.25;fill-opacity:.22}
.area.pair{fill:var(--pair);stroke:var(--pair)}
.area.other{fill:var(--other);stroke:var(--other)}
.area-image{fill:var(--image)}
.area-text{fill:var(--text)}
.touch{fill:transparent}
.tie{stroke:var(--other);stroke-width:.5;opacity:.35;fill:none}
.bar.strict{fill:var(--image)}
.bar.lenient{fill:var(--image);opacity:.24}
.whisker{stroke-width:1.5}
.whisker.strict{stroke:var(--ink)}
.whisker.lenient{stroke:var(--muted)}
svg .value.strict{font-weight:600}
svg .value.lenient{fill:var(--muted)}
svg .label.strict{fill:var(--ink);font-weight:600}
svg .name-row{font-size:12px}
svg .mean{font-weight:700}
svg .code{fill:var(--muted);font-size:10px}
.row:hover .touch{fill:var(--grid)}
.cell{fill:var(--image)}
.cell.pair{fill:var(--pair);stroke:var(--pair);stroke-width:1.5}
.sure{fill:var(--on-shade);stroke:var(--pair);stroke-width:1}
.matrix image{clip-path:inset(0 round 4px)}
.cell:hover{stroke:var(--ink);stroke-width:1.5}
svg .title{font-size:14px;font-weight:650}
svg .panel{fill:var(--card);stroke:var(--rule)}
"""

PAGE = """
*{box-sizing:border-box}
svg{display:block;width:100%;height:auto;overflow:visible}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans", sans-serif;font-variant-numeric:tabular-nums}
main,header,footer{max-width:1180px;margin:0 auto;padding:0 20px}
h1{font-size:clamp(28px,5vw,42px);line-height:1.1;letter-spacing:-.022em;margin:6px 0 12px;font-weight:700;
  overflow-wrap:anywhere}
h2{font-size:22px;letter-spacing:-.012em;line-height:1.2;margin:0 0 6px;font-weight:680}
h3{font-size:15px;margin:0;font-weight:650}
p{margin:0}
.house{display:flex;align-items:center;gap:9px;padding-top:36px;font-weight:600;color:var(--muted);letter-spacing:.01em}
.mark-of-house{width:26px}
.summary{font-size:18px;line-height:1.5;max-width:68ch;color:var(--muted);text-wrap:pretty}
.summary data{color:var(--ink);font-weight:600}
.tiles{display:grid;margin:28px 0 0;gap:1px;background:var(--card);border:1px solid var(--rule);border-radius:14px;
  overflow:hidden}
.tiles{grid-template-columns:repeat(auto-fit,minmax(min(100%,180px),1fr))}
.tiles>div{box-shadow:0 0 0 1px var(--rule);padding:14px 18px}
.tiles>div{display:grid;grid-row:span 2;grid-template-rows:subgrid;gap:0}
.tiles dt{font-size:13.5px;font-weight:600;line-height:1.35}
.tiles dt small{display:block;font-size:12.5px;font-weight:400;color:var(--muted)}
.tiles dd{margin:2px 0 0}
.tiles data{font-size:36px;line-height:1.15;font-weight:680;letter-spacing:-.03em;display:block}
.tiles data small{font-size:20px;font-weight:600;color:var(--muted);letter-spacing:0;margin-left:1px}
.tiles>div:first-child data,.tiles>div:first-child data small{color:var(--image)}
.interval,.note{display:block;font-size:12.5px;color:var(--muted);line-height:1.4}
.facts{display:flex;flex-wrap:wrap;gap:12px 34px;margin:20px 0 0}
.facts dt{font-size:12.5px;color:var(--muted)}
.facts dd{margin:0;font-size:14px;font-weight:550;overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:2;background:color-mix(in srgb,var(--ground) 90%,transparent);
  backdrop-filter:blur(10px);border-bottom:1px solid var(--rule);margin-top:28px}
nav ul{max-width:1180px;margin:0 auto;padding:9px 20px;display:flex;gap:6px 20px;list-style:none;overflow-x:auto;
  scrollbar-width:none}
nav a{color:var(--muted);text-decoration:none;font-weight:550;font-size:14px;white-space:nowrap}
nav a:hover{color:var(--ink)}
section{padding-top:44px;scroll-margin-top:8px}
.lead{color:var(--muted);max-width:72ch;margin-bottom:16px;text-wrap:pretty}
.grid-of{display:grid;gap:14px;grid-template-columns:repeat(3,minmax(0,1fr))}
.panel{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:16px 18px;margin:0;min-width:0}
.wide2{grid-column:span 2}
.wide3{grid-column:1/-1}
.panel+.panel.below,.grid-of+.panel.below{margin-top:14px}
.panel figcaption,.panel .says{font-size:13px;color:var(--muted);line-height:1.45;margin-top:8px}
.panel h3+.says{margin:1px 0 10px}
.panel h3{display:flex;justify-content:space-between;gap:10px;flex-wrap:wrap}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--muted);margin:0 0 8px;padding:0;
  list-style:none}
.legend li::before{content:"";display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px;
  background:var(--other)}
.legend .image::before{background:var(--image)}
.legend .text::before{background:var(--text)}
.legend .pair::before{background:var(--pair)}
.legend .wrong::before{background:var(--wrong)}
.legend .lenient::before{background:var(--image);opacity:.3}
.legend .dotted::before{width:6px;height:6px;border-radius:50%;margin:0 8px 2px 2px;background:var(--card);
  border:1.5px solid var(--pair)}
.two-columns{display:grid;grid-template-columns:1fr 1fr;gap:4px 34px;align-items:start}
.narrow{display:none}
.numbers{display:grid;gap:12px;margin:0;align-content:start}
.numbers dt{font-size:13px;color:var(--muted);line-height:1.35}
.numbers dd{margin:0;font-size:24px;font-weight:650;letter-spacing:-.02em;line-height:1.2}
.numbers .says{margin:2px 0 0;font-size:12.5px;font-weight:400;letter-spacing:0;line-height:1.4}
ul.finds,ul.describeds,ul.mistakes{list-style:none;margin:0;padding:0;display:grid;gap:14px 30px;
  grid-template-columns:repeat(2,minmax(0,1fr))}
ul.describeds{grid-template-columns:repeat(3,minmax(0,1fr))}
ul.mistakes{grid-template-columns:repeat(4,minmax(0,1fr))}
ul.compared{list-style:none;margin:0;padding:0;display:grid;gap:18px}
.compared .two-columns{gap:8px 30px}
.side{display:flex;font-size:12px;color:var(--muted);margin-bottom:3px}
.query{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 9px;margin-bottom:6px;line-height:1.4}
.query bdi{font-weight:600;overflow-wrap:anywhere}
.chip{font-size:12px;color:var(--muted)}
.rank{font-size:12px;color:var(--muted);margin-left:auto;white-space:nowrap}
.rank.first{color:var(--pair);font-weight:650}
.strip{display:grid;grid-template-columns:repeat(8,minmax(0,1fr));gap:5px}
.thumb{display:block;width:100%;height:auto;aspect-ratio:1;object-fit:contain;background:#fff;border-radius:8px;
  border:1px solid var(--rule);padding:5%}
.thumb.right{outline:3px solid var(--pair);outline-offset:-1px;border-color:transparent}
.thumb.wrong{outline:3px solid var(--wrong);outline-offset:-1px;border-color:transparent}
.described{display:grid;grid-template-columns:84px minmax(0,1fr);gap:14px;align-items:start}
.captions{display:grid;gap:4px}
.captions ol{list-style:none;margin:0;padding:0;font-size:14px;line-height:1.45;display:grid;gap:1px}
.captions li{position:relative;padding-left:20px;color:var(--muted);overflow-wrap:anywhere}
.captions li.right{color:var(--ink);font-weight:600}
.tick-mark{position:absolute;left:2px;color:var(--pair);font-weight:700}
.captions .chip{margin-left:6px;font-weight:400;white-space:nowrap}
.captions .rank{margin-left:20px}
.halves{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:12px;max-width:210px;overflow-wrap:anywhere}
.half small{display:block;font-size:12px;color:var(--muted);margin-top:4px;text-align:center}
.half:only-child{grid-column:1/-1}
.half:only-child .thumb{max-width:99px;margin:0 auto}
.half-width{max-width:640px}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--grid);vertical-align:top;
  overflow-wrap:anywhere}
th{font-weight:550}
td.number,th.number{text-align:right;white-space:nowrap}
.card-table th{color:var(--muted);width:38%;font-weight:450}
details summary{cursor:pointer;font-weight:600;padding:2px 0}
details[open] summary{margin-bottom:8px}
.scroll{overflow-x:auto}
.scroll svg.matrix{min-width:480px}
.command{margin:0 0 14px;padding:14px 16px;background:var(--card);border:1px solid var(--rule);border-radius:12px;
  overflow-x:auto; font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  white-space:pre-wrap;overflow-wrap:anywhere}
.choice{position:absolute;opacity:0;pointer-events:none}
.switch{display:flex;gap:2px;font-size:13px;font-weight:500;background:var(--grid);border-radius:8px;padding:2px}
.switch label{padding:1px 10px;border-radius:6px;cursor:pointer;color:var(--muted)}
#loss-log:checked~.panel label[for=loss-log],#loss-linear:checked~.panel label[for=loss-linear]{background:var(--card);
  color:var(--ink)}
#loss-log:checked~.panel .on-linear,#loss-linear:checked~.panel .on-log{display:none}
.choice:focus-visible~.panel .switch{outline:2px solid var(--image)}
footer{padding:48px 20px 60px;color:var(--muted);font-size:13px}
#tip{position:fixed;z-index:3;pointer-events:none;background:var(--ink);color:var(--card);font-size:12.5px;
  line-height:1.4;padding:5px 9px;border-radius:7px;max-width:290px;opacity:0;transition:opacity .1s}
#tip.on{opacity:1}
#tip b{display:block;font-weight:500;opacity:.75}
.guide{stroke:var(--muted);stroke-width:1;stroke-dasharray:2 2}
@media (max-width:900px){
.grid-of{grid-template-columns:repeat(2,minmax(0,1fr))}
ul.describeds{grid-template-columns:repeat(2,minmax(0,1fr))}
ul.mistakes{grid-template-columns:repeat(3,minmax(0,1fr))}}
@media (max-width:640px){
main,header,footer,nav ul{padding-left:14px;padding-right:14px}
.panel{padding:14px}
.grid-of,.two-columns,ul.finds,ul.describeds{grid-template-columns:minmax(0,1fr)}
ul.mistakes{grid-template-columns:repeat(2,minmax(0,1fr))}
.wide2{grid-column:auto}
.wide{display:none}
.narrow{display:block}
.tiles{grid-template-columns:1fr 1fr}
.tiles>div{padding-left:14px;padding-right:10px}
.tiles>div:last-child:nth-child(odd){grid-column:1/-1}
.tiles data{font-size:30px}
.half small{font-size:11px}
.half small:not(:has(bdi)){white-space:nowrap}
.facts{gap:10px 24px}
.summary{font-size:16.5px}
.house{padding-top:22px}
section{padding-top:36px}}
@media print{
nav{display:none}
body{background:#fff}
.panel{break-inside:avoid}}
"""
