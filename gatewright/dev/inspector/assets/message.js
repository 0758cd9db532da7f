// Headers and bodies, as they were sent.
import { html, useState, REDACTED } from "./lib.js";

export const isBody = (value) => value != null && typeof value === "object" && "size" in value;

export function Headers({ headers, label = "Headers" }) {
  if (!headers?.length) return html`<p class="dim">no headers</p>`;
  return html`
    <table class="headers" aria-label=${label}>
      <tbody>${headers.map(([name, value]) => html`
        <tr><th scope="row">${name}</th><td><${Value} text=${value} /></td></tr>`)}
      </tbody>
    </table>`;
}

export function Value({ text }) {
  if (text == null) return html`<span class="dim">(no value)</span>`;
  const parts = String(text).split(REDACTED);
  return parts.map((part, index) => (index ? html`<span class="secret" title="Reveal secrets to see it">hidden</span>${part}` : part));
}

export function Body({ body }) {
  const [raw, setRaw] = useState(false);
  if (!body) return html`<p class="dim">no body</p>`;
  const what = `${body.size.toLocaleString("en")} bytes${body.cut ? ", the beginning of which was kept" : ""}`;
  if (!body.size) return html`<p class="dim">an empty body</p>`;
  if (body.base64 !== undefined) return html`<p class="dim">${what}, not text</p><pre class="body">${hex(body.base64)}</pre>`;
  const shown = json(body.text);
  return html`
    <div class="bodyhead"><span class="dim">${what}</span>
      ${shown && html`<button class="quiet" onClick=${() => setRaw(!raw)}>${raw ? "as JSON" : "as sent"}</button>`}</div>
    <pre class="body" tabindex="0">${raw || !shown ? body.text : shown}</pre>`;
}

function json(text) {
  try {
    return /^\s*[{[]/.test(text) ? JSON.stringify(JSON.parse(text), null, 2) : "";
  } catch {
    return "";
  }
}

function hex(base64) {
  let all;
  try {
    all = atob(base64);
  } catch {
    return base64; // it comes from a file
  }
  const bytes = Array.from(all.slice(0, 1024), (char) => char.charCodeAt(0));
  const rows = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.slice(at, at + 16);
    const codes = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    rows.push(`${at.toString(16).padStart(6, "0")}  ${codes}  ${text}`);
  }
  return rows.join("\n") + (all.length > 1024 ? "\n…" : "");
}

/** Text with a button that copies it. */
export function Copied({ text, label = "copy" }) {
  const [done, setDone] = useState("");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone("copied");
    } catch {
      setDone("select it and copy it: the clipboard is closed");
    }
    setTimeout(() => setDone(""), 2000);
  };
  return html`<button onClick=${copy}>${done || label}</button>`;
}
