// Typed into a review page by tests/create/test_review.py: keys, and what the page then is, as JSON in the page.
const result = {saved: [], times: [], keys: 0};
const row = () => document.getElementById("row"), text = id => document.getElementById(id).textContent;
window.Blob = class { constructor(parts) { result.saved.push(parts.join("")); } };
window.URL.createObjectURL = () => "#";
HTMLAnchorElement.prototype.click = () => {};

function press(key, more = {}) {
  const at = performance.now();
  (document.activeElement || document.body).dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...more}));
  row().getBoundingClientRect();  // the layout is part of a response
  result.times.push(performance.now() - at);
  result.keys++;
}
function fill(texts) {
  const areas = row().querySelectorAll("textarea");
  result.areas = areas.length;
  texts.forEach((t, i) => { if (t !== null) areas[i].value = t; });
  press("Enter", {ctrlKey: true});
}
const seen = () => ({status: text("status"), said: text("said"), row: row().textContent, editor: text("editor"),
  wide: document.body.scrollWidth, markup: row().querySelectorAll("b,script,img,i").length, hacked: Boolean(window.hacked)});

SCRIPT
result.last = seen();
document.body.style.width = "340px";
result.narrow = row().scrollWidth;
const out = document.createElement("pre");
out.id = "result";
out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(result))));
document.body.append(out);
