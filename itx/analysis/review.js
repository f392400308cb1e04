// The review page's script, behind keys.js: what a person decides of rows, by keys. The first half is of plain values and has no page
// (tests/create/test_review.py runs it in node); the second shows it.
//
// data   {digest, editor, tags, tasks: {name: {blank, fields}}, rows: [{task, id, content, row, fields, options, answer,
//        note}]}, as itx/create/review.py makes it; field: {at, says, text, number, also}, `also` being the places that hold the same
// state  {decided: {number of the row: {verdict, changes, tags}}, added: [{task, values}]}
const PATCH_VERSION = 1, VERDICTS = {a: "accept", r: "reject"};

// What a person typed in a row's fields, {at: text}, as a decision; a string says what is wrong.
function edited(row, texts) {
  const changes = {};
  for (const field of row.fields) {
    const text = texts[field.at];
    if (text === undefined || text === typed(String(field.text))) continue;
    const value = field.number ? whole(text) : text;
    if (value === null) return `${field.says} is a whole number`;
    for (const at of [field.at, ...field.also]) changes[at] = value;
  }
  return Object.keys(changes).length ? {verdict: "fix", changes} : {verdict: "accept"};
}

const whole = text => /^\s*[-+]?\d{1,15}\s*$/.test(text) ? Number(text) : null;

// The decision that option `number` of a row is the answer; null where there is no such option.
function chosen(row, number) {
  if (!row.answer || !(number >= 0 && number < row.options.length)) return null;
  if (number === row.answer.index) return {verdict: "accept"};
  const value = row.answer.text ? row.options[number] : number;
  return {verdict: "fix", changes: {[row.answer.at]: value}};
}

// Which option is the answer after a decision.
function answered(row, decision) {
  const value = decision?.changes?.[row.answer?.at];
  return value === undefined ? row.answer?.index : row.answer.text ? row.options.indexOf(value) : value;
}

// A new pair of a task from what was typed, {at: text}; a string says what is wrong.
function written(data, task, texts) {
  const values = structuredClone(data.tasks[task].blank);
  for (const field of data.tasks[task].fields) {
    const text = texts[field.at] ?? "";
    if (!text.trim()) return `${field.says} is empty`;
    const value = field.number ? whole(text) : text;
    if (value === null) return `${field.says} is a whole number`;
    for (const at of [field.at, ...field.also]) {
      const way = at.split("/").slice(1).map(p => p.replaceAll("~1", "/").replaceAll("~0", "~")), last = way.pop();
      way.reduce((inside, part) => inside[part], values)[last] = value;
    }
  }
  return {task, values};
}

// The patch as a file has it (itx/prepare/patches.py).
function patch(data, state) {
  const head = {patch: PATCH_VERSION, by: "review", editor: state.editor, of: data.digest, rows: data.rows.length};
  const entries = data.rows.flatMap((row, i) => {
    const d = state.decided[i];
    if (!d || !d.verdict && !d.tags?.length) return [];
    const entry = {task: row.task, verdict: d.verdict || "undecided", id: row.id, content: row.content, row: row.row};
    if (d.changes) entry.changes = d.changes;
    if (d.tags?.length) entry.tags = d.tags;
    return [entry];
  });
  const added = state.added.map(pair => ({task: pair.task, verdict: "new", values: pair.values}));
  return [head, ...entries, ...added].map(line => JSON.stringify(line) + "\n").join("");
}

function counts(data, state) {
  const found = {accept: 0, reject: 0, fix: 0};
  for (const i in state.decided) if (state.decided[i].verdict) found[state.decided[i].verdict]++;
  return {...found, new: state.added.length, open: data.rows.length - found.accept - found.reject - found.fix};
}

// The next row after `at` without a verdict, round the end; the next one of all where each has one.
function nextOpen(data, state, at) {
  const n = data.rows.length;
  for (let step = 1; step <= n; step++) if (!state.decided[(at + step) % n]?.verdict) return (at + step) % n;
  return Math.min(at + 1, n - 1);
}

// What is kept in the browser, a key for each row, so that keeping one takes no longer where there are many.
function keep(store, data, state, what) {
  const value = what === "new" ? state.added : what === "editor" ? state.editor : state.decided[what] ?? null;
  store.setItem(`itx-review:${data.digest}:${what}`, JSON.stringify(value));
}

function kept(store, data) {
  const read = what => JSON.parse(store.getItem(`itx-review:${data.digest}:${what}`) ?? "null");
  const state = {decided: {}, added: read("new") ?? [], editor: read("editor") ?? data.editor};
  data.rows.forEach((_, i) => { const d = read(i); if (d) state.decided[i] = d; });
  return state;
}

// ---- the page

function page(document, window) {
  const data = JSON.parse(document.getElementById("data").textContent), by = id => document.getElementById(id);
  let store = null, state = {decided: {}, added: [], editor: data.editor}, said = "", mode = "read", at = 0, undone = [];
  try { store = window.localStorage; state = kept(store, data); } catch { said = "this browser keeps nothing: save before you leave"; }
  at = nextOpen(data, state, -1);

  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
    return made;
  };
  const keeping = what => {
    try { if (store) keep(store, data, state, what); } catch { said = "the browser keeps no more: save now (s)"; }
  };

  function decide(decision) {
    undone.push([at, state.decided[at]]);
    state.decided[at] = {...decision, tags: state.decided[at]?.tags};
    keeping(at);
    at = nextOpen(data, state, at);
  }

  function reading(row, decision) {
    const parts = [element("p", `${row.task} ${row.id}`, {class: "quiet"})];
    if (row.note) parts.push(element("p", shown(row.note), {class: "note", dir: "auto"}));
    for (const field of row.fields) {
      const now = decision?.changes?.[field.at];
      parts.push(element("div", field.says, {class: "quiet"}));
      parts.push(element("pre", shown(String(now ?? field.text)), {dir: "auto", class: now === undefined ? "" : "fixed"}));
    }
    if (row.answer) {
      const list = element("ol"), right = answered(row, decision);
      row.options.forEach((option, i) => list.append(element("li", shown(String(option)), {dir: "auto", class: i === right ? "right" : ""})));
      parts.push(list);
    }
    const told = [decision?.verdict ?? "open", ...decision?.tags ?? []].join(", ");
    parts.push(element("p", told, {class: "verdict " + (decision?.verdict ?? ""), id: "verdict"}));
    if (mode === "tag") {
      const list = element("ol", undefined, {class: "tags"});
      for (const tag of data.tags) list.append(element("li", shown(tag), {dir: "auto"}));
      parts.push(element("p", "tag:"), list);
    }
    return parts;
  }

  function form(fields, values) {
    const parts = [element("p", mode === "new" ? `a new pair of ${data.rows[at].task}` : "change what is wrong", {class: "quiet"})];
    for (const field of fields) {
      const label = element("label", field.says), area = element("textarea", undefined, {dir: "auto", rows: mode === "new" ? 2 : 4, "data-at": field.at});
      area.value = values(field);
      label.append(area);
      parts.push(label);
    }
    parts.push(element("p", "Ctrl Enter: done. Esc: leave it.", {class: "quiet"}));
    return parts;
  }

  function show() {
    const c = counts(data, state);
    by("status").textContent = `row ${at + 1} of ${data.rows.length}: ${c.accept} accepted, ${c.reject} rejected, ${c.fix} fixed, ${c.new} new, ${c.open} open`;
    by("said").textContent = said;
    by("editor").textContent = state.editor || "nobody yet (e)";
    const row = data.rows[at], decision = state.decided[at];
    const parts = mode === "edit" ? form(row.fields, f => String(decision?.changes?.[f.at] ?? f.text))
      : mode === "new" ? form(data.tasks[row.task].fields, () => "")
      : mode === "editor" ? form([{at: "", says: "your name", text: ""}], () => state.editor) : reading(row, decision);
    by("row").replaceChildren(...parts);
    by("row").querySelector("textarea")?.focus();
  }

  function finish() {
    const texts = {};
    for (const area of by("row").querySelectorAll("textarea")) texts[area.getAttribute("data-at")] = area.value;
    if (mode === "editor") { state.editor = texts[""].trim(); keeping("editor"); mode = "read"; return; }
    const made = mode === "edit" ? edited(data.rows[at], texts) : written(data, data.rows[at].task, texts);
    if (typeof made === "string") { said = made; by("said").textContent = said; return false; }
    if (mode === "edit") {
      const choice = data.rows[at].answer && state.decided[at]?.changes?.[data.rows[at].answer.at];
      if (choice !== undefined && choice !== null) { made.verdict = "fix"; made.changes = {[data.rows[at].answer.at]: choice, ...made.changes}; }
      decide(made);
    } else { state.added.push(made); keeping("new"); }
    mode = "read";
  }

  function save() {
    if (!state.editor) { said = "give your name first (e)"; return; }
    const link = element("a", "", {download: `patch-${data.digest}.jsonl`});
    link.href = window.URL.createObjectURL(new window.Blob([patch(data, state)], {type: "application/jsonl"}));
    link.click();
    said = `saved as patch-${data.digest}.jsonl`;
  }

  const move = {j: 1, arrowdown: 1, arrowright: 1, k: -1, arrowup: -1, arrowleft: -1};

  function reads(key) {
    const number = /^[1-9]$/.test(key) ? Number(key) - 1 : -1, decision = state.decided[at];
    if (mode === "tag") {
      mode = "read";
      const tag = data.tags[number], tags = decision?.tags ?? [];
      if (tag === undefined) return;
      state.decided[at] = {...decision, tags: tags.includes(tag) ? tags.filter(t => t !== tag) : [...tags, tag]};
      return keeping(at);
    }
    if (VERDICTS[key]) return decide({verdict: VERDICTS[key]});
    if (number >= 0) { const choice = chosen(data.rows[at], number); if (choice) decide(choice); else said = `no option ${number + 1}`; return; }
    if (move[key]) at = Math.max(0, Math.min(data.rows.length - 1, at + move[key]));
    else if (key === "g") at = nextOpen(data, state, at);
    else if (key === "f") mode = "edit";
    else if (key === "n") mode = "new";
    else if (key === "t") mode = "tag";
    else if (key === "e") mode = "editor";
    else if (key === "s") save();
    else if (key === "x" && state.added.pop()) { keeping("new"); said = "the newest new pair is taken back"; }
    else if (key === "u" && undone.length) {
      const [row, before] = undone.pop();
      at = row;
      if (before) state.decided[at] = before; else delete state.decided[at];
      keeping(at);
    } else return false;
  }

  document.addEventListener("keydown", event => {
    const forms = mode !== "read" && mode !== "tag", wanted = event.ctrlKey || event.metaKey;
    said = "";
    if (forms) {
      if (event.key === "Escape") mode = "read";
      else if (!(event.key === "Enter" && (wanted || mode === "editor")) || finish() === false) return;
    } else if (wanted || event.altKey || event.isComposing || reads(keyOf(event)) === false) return;
    event.preventDefault();
    show();
  });
  show();
}

if (typeof document === "undefined") module.exports = {shown, keyOf, edited, chosen, answered, written, patch, counts, nextOpen, keep, kept, page};
else page(document, window);
