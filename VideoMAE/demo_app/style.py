"""How the demo's page looks, light and dark; colours are Gradio's where it has one. And the page of its endpoints."""

STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; --emo-accent: #2a6fb0; --emo-soft: #a9c8e6;
  --emo-muted: #5a6676;
  --line-0: #2a6fb0; --line-1: #d97a1e; --line-2: #2f9470; --line-3: #b0518e; --line-4: #7a6a55; }
.dark .gradio-container, .dark { --emo-accent: #6fabec; --emo-soft: #35536f; --emo-muted: #9ca8b7;
  --line-0: #6fabec; --line-1: #f0a052; --line-2: #5cc7a0; --line-3: #e08cc4; --line-4: #b8a78d; }
.emo-head h1 { font-size: 1.6rem; margin: 8px 0 2px; }
.emo-head p { margin: 0 0 4px; max-width: 120ch; color: var(--emo-muted); font-size: .92rem; line-height: 1.45; }
.emo-card { background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 10px; padding: 16px 18px; color: var(--body-text-color); }
.emo-card h3 { margin: 0 0 10px; font-size: 1.05rem; } .emo-card section { margin-top: 22px; }
.emo-card h4 { margin: 0 0 2px; font-size: .8rem; font-weight: 600; color: var(--emo-muted);
  text-transform: uppercase; letter-spacing: .04em; }
.emo-card h4.emo-name { text-transform: none; letter-spacing: 0; font-size: .95rem; margin-bottom: 8px; }
.emo-name { overflow-wrap: anywhere; }
.emo-card p { margin: 8px 0 0; color: var(--emo-muted); font-size: .85rem; }
.emo-card p.emo-finding { margin: 0 0 12px; color: var(--body-text-color); font-size: 1.15rem; font-weight: 600;
  overflow-wrap: anywhere; }
#examples .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important; }
#examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; }
#examples .gallery-container { height: auto !important; } #examples .caption-label { display: none; }
.html-container:has(.emo-card), .html-container:has(.emo-foot), .html-container:has(.emo-head) { padding: 0; }
.emo-hint { color: var(--emo-muted); text-align: center; padding: 56px 18px; }
.emo-problem { border-left: 4px solid #c2452f; overflow-wrap: anywhere; }
.emo-strip { display: block; width: 100%; height: auto; border-radius: 6px; margin: 0; }
ol.emo-bars { list-style: none; margin: 0; padding: 0; font-size: .85rem; columns: 2 290px; column-gap: 32px; }
ol.emo-bars li { display: grid; grid-template-columns: 12em minmax(0, 1fr) 2.4em; gap: 8px; align-items: center;
  margin: 0; padding: 2px 0; break-inside: avoid; color: var(--emo-muted); }
ol.emo-bars li.top { color: var(--body-text-color); font-weight: 600; }
ol.emo-bars div { position: relative; height: 12px; border-radius: 3px; background: var(--background-fill-secondary); }
ol.emo-bars i { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 3px; background: var(--emo-soft); }
ol.emo-bars li.top i { background: var(--emo-accent); }
ol.emo-bars u { position: absolute; top: -2px; bottom: -2px; width: 2px; margin-left: -1px;
  background: var(--emo-muted); opacity: .7; }
ol.emo-bars b { font-weight: inherit; text-align: right; font-variant-numeric: tabular-nums; }
ol.emo-differences { columns: auto; } ol.emo-differences li { grid-template-columns: 12em minmax(0, 1fr) 6.5em; }
ol.emo-differences div { background: linear-gradient(90deg, var(--background-fill-secondary) calc(50% - 1px),
  var(--emo-muted) calc(50% - 1px) calc(50% + 1px), var(--background-fill-secondary) calc(50% + 1px)); }
ol.emo-differences i.right { left: 50%; background: var(--line-1); }
ol.emo-differences i.left { left: auto; right: 50%; background: var(--line-0); }
.emo-gauge { position: relative; height: 74px; border-bottom: 2px solid var(--border-color-primary); }
.emo-gauge svg, .emo-plot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.emo-gauge .below { fill: var(--emo-accent); } .emo-gauge .above { fill: var(--emo-soft); }
.emo-gauge i { position: absolute; top: -4px; bottom: -6px; width: 3px; margin-left: -1.5px; border-radius: 2px;
  background: var(--body-text-color); }
.emo-card .emo-ends { display: flex; justify-content: space-between; font-size: .8rem; color: var(--emo-muted);
  margin-top: 6px; }
.emo-card .emo-sides { margin: 0 calc(6.5em + 8px) 4px calc(12em + 8px); }
.emo-legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .85rem; margin: 6px 0 10px; }
.emo-legend i { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }
.emo-plot { position: relative; height: 190px; margin-left: 3.2em; border-bottom: 1px solid var(--border-color-primary);
  background: repeating-linear-gradient(0deg, transparent 0 calc(25% - 1px), var(--border-color-primary)
  calc(25% - 1px) 25%); }
.emo-plot b { position: absolute; right: 100%; transform: translate(-8px, 50%); font-size: .75rem; font-weight: 400;
  color: var(--emo-muted); font-variant-numeric: tabular-nums; }
.emo-plot polyline, .emo-plot line { fill: none; stroke-width: 2.2; vector-effect: non-scaling-stroke;
  stroke-linejoin: round; }
.emo-plot line.usual { stroke: var(--emo-muted); stroke-width: 1.4; stroke-dasharray: 5 4; }
.emo-legend i.usual { height: 0; border-top: 2px dashed var(--emo-muted); }
.emo-plot g.hover rect { fill: transparent; }
.emo-plot g.hover rect:hover { fill: var(--body-text-color); opacity: .1; }
polyline.line-0 { stroke: var(--line-0); } i.line-0 { background: var(--line-0); }
polyline.line-1 { stroke: var(--line-1); } i.line-1 { background: var(--line-1); }
polyline.line-2 { stroke: var(--line-2); } i.line-2 { background: var(--line-2); }
polyline.line-3 { stroke: var(--line-3); } i.line-3 { background: var(--line-3); }
polyline.line-4 { stroke: var(--line-4); } i.line-4 { background: var(--line-4); }
.emo-seconds { display: flex; justify-content: space-between; margin: 4px 0 0 3.2em; font-size: .75rem;
  color: var(--emo-muted); }
.emo-aligned { margin: 16px 0 0 3.2em; }
.emo-two { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 20px; }
@media (max-width: 600px) { .emo-card { padding: 14px; }
  ol.emo-bars li { grid-template-columns: 8.4em minmax(0, 1fr) 2.4em; }
  ol.emo-differences li { grid-template-columns: 8.4em minmax(0, 1fr); } ol.emo-differences b { display: none; }
  .emo-card .emo-sides { margin: 0 0 4px calc(8.4em + 8px); } }
.emo-foot { font-size: .8rem; color: var(--emo-muted); }
"""

API_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>How would the viewer feel? For programs</title><style>
:root {{ color-scheme: light dark; }} body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75ch; margin: 2rem auto;
  padding: 0 1rem; }} pre {{ overflow-x: auto; padding: 1rem; border: 1px solid #8886; border-radius: 8px; }}
</style></head><body><h1>For programs</h1>
<p>What <a href="/">the page</a> shows, through Gradio's client (<code>pip install gradio_client</code>):</p>
<pre>from gradio_client import Client, handle_file

client = Client("{url}")
video = handle_file("video.mp4")
print(client.predict(video, api_name="/predict"))
print(client.predict(video, api_name="/over_time"))
print(client.predict(video, handle_file("other.mp4"), api_name="/compare"))</pre>
<dl>{endpoints}</dl>
<p>Requests are answered one after the other. A file is removed once its request is answered, so send it anew with each.
A video that cannot be taken raises an error with a sentence that says why.</p></body></html>
"""
