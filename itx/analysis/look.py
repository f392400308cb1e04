# SPDX-License-Identifier: Apache-2.0
"""How report.html looks, by day, by night and on a phone, and its one script, which sorts a table
by a click.

The page's policy names the two by their hashes: nothing else may run, be styled or be fetched,
whatever data it shows.
"""

import base64
import hashlib

CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#22262b;--quiet:#646a73;--line:#e3e6ea;--shade:#f6f7f9;--blue:#2563a8;
--good:#2f7d4f;--bad:#a33b3b}
@media (prefers-color-scheme:dark){:root{--paper:#16191d;--ink:#e4e7eb;--quiet:#9aa2ad;--line:#343a42;--shade:#20252b;
--blue:#7fb2ea;--good:#5fb583;--bad:#e08080}}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);margin:0 auto;
max-width:1240px;padding:24px 20px 80px;background:var(--paper)}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 8px;padding-top:12px;border-top:1px solid var(--line)}
p,li{max-width:78ch;overflow-wrap:anywhere}.quiet{color:var(--quiet)}img{max-width:100%;height:auto;display:block}
.lead{border:1px solid var(--line);background:var(--shade);border-radius:6px;padding:4px 16px;margin:16px 0}
.lead p{max-width:none}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom}
th,td{padding:3px 14px 3px 0}td{border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right}td.n{white-space:nowrap}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--blue)}
th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
table.lines td,table.lines th{white-space:nowrap}
table.lines td:first-child,table.lines th:first-child{position:sticky;left:0;background:var(--paper)}
pre{background:var(--shade);padding:8px 10px;margin:4px 0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}
.sample{border-left:4px solid var(--line);padding:2px 0 2px 12px;margin:14px 0}
.good{border-color:var(--good)}.bad{border-color:var(--bad)}summary{cursor:pointer}
nav a{margin-right:14px;color:var(--blue)}
@media (max-width:640px){body{padding:14px 12px 60px}
table.cards,table.cards tbody,table.cards tr,table.cards td{display:block}table.cards thead{display:none}
table.cards tr{border-bottom:2px solid var(--line);padding:6px 0}
table.cards td{border:0;padding:1px 0;text-align:right;white-space:normal;display:flex;justify-content:space-between;gap:16px}
table.cards td::before{content:attr(data-label);color:var(--quiet);text-align:left}
table.cards td:first-child{font-weight:600;text-align:left}table.cards td:first-child::before{content:none}
table.cards td:empty{display:none}
table.lines td:first-child,table.lines th:first-child{white-space:normal;overflow-wrap:anywhere;min-width:110px;max-width:34vw}
table.lines th,table.lines td{padding-right:10px}.wide img{max-width:none;width:640px}}
"""

SCRIPT = """
for (const head of document.querySelectorAll("th")) head.querySelector("button")?.addEventListener("click", () => {
  const place = head.cellIndex, body = head.closest("table").tBodies[0], number = head.classList.contains("n");
  const way = head.getAttribute("aria-sort") === (number ? "descending" : "ascending") ? !number : number;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", way ? "descending" : "ascending");
  const value = row => row.cells[place].textContent, parsed = row => parseFloat(value(row).replaceAll(",", ""));
  const order = (a, b) => {
    if (!number) return value(a).localeCompare(value(b));
    const [x, y] = [parsed(a), parsed(b)];
    if (isNaN(x) || isNaN(y)) return (isNaN(x) - isNaN(y)) * (way ? -1 : 1);
    return x - y;
  };
  body.append(...[...body.rows].sort((a, b) => way ? order(b, a) : order(a, b)));
});
"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = f"default-src 'none'; img-src data:; style-src {_hash(CSS)}; script-src {_hash(SCRIPT)}"
