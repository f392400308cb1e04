// The blind page's script, behind keys.js: a person says which of two answers is better, and is not told whose they are.
//
// data   {digest, seed, rows: [{id, prompt, references, left, right}]}, as itx/analysis/blind.py makes it
// state  {voted: {number of the row: vote}, judge}
const VOTES_VERSION = 1, VOTES = {1: "left", 2: "right", 0: "tie", x: "both bad"};

// The votes as a file has them (itx/analysis/blind.py).
function votesFile(data, state) {
  const head = {votes: VOTES_VERSION, judge: state.judge, of: data.digest, seed: data.seed, rows: data.rows.length};
  const lines = data.rows.flatMap((row, i) => state.voted[i] ? [{id: row.id, vote: state.voted[i]}] : []);
  return [head, ...lines].map(line => JSON.stringify(line) + "\n").join("");
}

const openRows = (data, state) => data.rows.length - Object.keys(state.voted).length;

function page(document, window) {
  const data = JSON.parse(document.getElementById("data").textContent), by = id => document.getElementById(id);
  const name = `itx-blind:${data.digest}:${data.seed}`;
  let store = null, state = {voted: {}, judge: ""}, said = "", at = 0, wanted = false, naming = false;
  try { store = window.localStorage; state = JSON.parse(store.getItem(name) ?? "null") ?? state; } catch { said = "this browser keeps nothing: save before you leave"; }
  const nextOpen = from => {
    for (let step = 1; step <= data.rows.length; step++) if (!state.voted[(from + step) % data.rows.length]) return (from + step) % data.rows.length;
    return Math.min(from + 1, data.rows.length - 1);
  };
  const keep = () => { try { store?.setItem(name, JSON.stringify(state)); } catch { said = "the browser keeps no more: save now (s)"; } };
  const text = (id, value) => { by(id).textContent = shown(value); };

  function show() {
    const row = data.rows[at];
    by("status").textContent = `row ${at + 1} of ${data.rows.length}, ${openRows(data, state)} open${state.voted[at] ? `; you said: ${state.voted[at]}` : ""}`;
    by("said").textContent = said;
    text("prompt", row.prompt);
    text("left", row.left);
    text("right", row.right);
    by("left").className = state.voted[at] === "left" ? "chosen" : "";
    by("right").className = state.voted[at] === "right" ? "chosen" : "";
    by("wanted").textContent = wanted ? "wanted: " + row.references.map(shown).join(" | ") : "";
    by("judge").textContent = state.judge || "nobody yet (e)";
    by("naming").hidden = !naming;
    if (naming) by("naming").focus();
  }

  function save() {
    if (!state.judge) { said = "give your name first (e)"; return; }
    const link = document.createElement("a");
    link.download = `votes-${data.digest}.jsonl`;
    link.href = window.URL.createObjectURL(new window.Blob([votesFile(data, state)], {type: "application/jsonl"}));
    link.click();
    said = `saved as ${link.download}`;
  }

  const move = {j: 1, arrowdown: 1, k: -1, arrowup: -1};

  function reads(key) {
    const vote = VOTES[{arrowleft: 1, arrowright: 2}[key] ?? key];
    if (vote) { state.voted[at] = vote; keep(); at = nextOpen(at); wanted = false; return true; }
    if (move[key]) { at = Math.max(0, Math.min(data.rows.length - 1, at + move[key])); wanted = false; }
    else if (key === "g") { at = nextOpen(at); wanted = false; }
    else if (key === "r") wanted = !wanted;
    else if (key === "u") { delete state.voted[at]; keep(); }
    else if (key === "e") naming = true;
    else if (key === "s") save();
    else return false;
    return true;
  }

  document.addEventListener("keydown", event => {
    said = "";
    if (naming) {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      if (event.key === "Enter") { state.judge = by("naming").value.trim(); keep(); }
      naming = false;
    } else if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || !reads(keyOf(event))) return;
    event.preventDefault();
    show();
  });
  at = nextOpen(-1);
  show();
}

if (typeof document !== "undefined") page(document, window);
