// What pages that are operated by keys share: texts that show what is in them, and keys by their letters.
"use strict";

// A text as a <textarea> gives it back.
const typed = text => text.replace(/\r\n?/g, "\n");

// Characters that nothing shows, or that turn the text around them, as their names.
const shown = text => typed(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2028\u2029\u2060-\u2069\ufeff]/g,
  c => "⟨U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "⟩");

// The key by its letter; on a layout of other letters (Russian), by its place.
const keyOf = event => /^[a-z0-9]$/i.test(event.key) || event.key.length > 1 ? event.key.toLowerCase()
  : /^(Key|Digit)/.test(event.code || "") ? event.code.slice(-1).toLowerCase() : event.key;

