import { colourProperties } from "../figures/theme.js";

/** The style sheet of the report: light and dark, for any width from a phone's on. */
export const styles = `
:root { color-scheme: light dark; ${colourProperties("light")} }
@media (prefers-color-scheme: dark) { :root { ${colourProperties("dark")} } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 17px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2rem 1rem 3rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .8rem; }
p, li { max-width: 72ch; }
p { margin: 0 0 .9rem; }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
li { margin-bottom: .45rem; }
section { border-top: 1px solid var(--grid); margin-top: 2rem; padding-top: 1.5rem; }
.note, figcaption { font-size: .9rem; color: var(--soft); }
figcaption b, .note b { color: var(--ink); }
dl { margin: 0 0 1rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 280px), 1fr)); gap: .6rem 1.6rem; }
.definitions { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: .6rem 1.6rem; }
.definitions dt { color: var(--ink); font-weight: 600; font-size: .95rem; }
.definitions dd { font-size: .95rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: 0 0 1.4rem; }
.scroll:focus-visible { outline: 2px solid var(--main); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .5rem; }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
thead th { vertical-align: bottom; border-bottom: 2px solid var(--soft); }
th:first-child { position: sticky; left: 0; background: var(--page); text-align: left; padding-left: .3rem; }
tbody tr { border-bottom: 1px solid var(--grid); }
tbody th { font-weight: normal; }
.group th { font-weight: 700; padding-top: .8rem; border-bottom: 1px solid var(--soft); }
td small { display: block; color: var(--soft); font-size: .85em; }
.best { color: var(--against); }
figure { margin: 1.6rem 0; }
figure .scroll { margin-bottom: .5rem; }
figure .scroll > svg { display: block; width: 100%; min-width: 460px; max-width: 720px; height: auto; }
code { font-size: .9em; overflow-wrap: anywhere; }
@media (max-width: 480px) { caption { position: sticky; left: 0; width: calc(100vw - 2rem); } }
@media print { .scroll { overflow: visible; } figure, tr { break-inside: avoid; } }
`;
