/** What the pages share; they load nothing from elsewhere. */
export const PAGE_STYLE = `
  :root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #1664c0; --good: #0a7d4f; --bad: #b3460e; }
  @media (prefers-color-scheme: dark) { :root { --accent: #7ab8ff; --good: #4cd29b; --bad: #ff9d66; } }
  * { box-sizing: border-box; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1.5rem; }
  h1 { font-size: 1.5rem; margin: 0; }
  a { color: var(--accent); }
  code, pre { font: 13px/1.45 ui-monospace, monospace; }
  pre { background: var(--soft); padding: .75rem; border-radius: .4rem; overflow: auto; max-height: 24rem; margin: .5rem 0; }
  table { border-collapse: collapse; width: 100%; }
  td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
  header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; margin-bottom: 1rem; }
  header nav { margin-left: auto; display: flex; gap: 1rem; }
`;
