// An exception: its text first, then the author's own frames with their source; others' are folded.
import { html, plural } from "./lib.js";

export function Failure({ error }) {
  const groups = [];
  for (const frame of error.frames) {
    const last = groups[groups.length - 1];
    if (last && last.own === frame.own) last.frames.push(frame);
    else groups.push({ own: frame.own, frames: [frame] });
  }
  return html`
    <div class="failure">
      <p class="exception"><strong>${error.type}</strong>: ${error.text}</p>
      ${groups.map((group) => group.own
        ? group.frames.map((frame) => html`<${Frame} frame=${frame} />`)
        : html`<details><summary>${plural(group.frames.length, "frame")} of libraries</summary>
            ${group.frames.map((frame) => html`<${Frame} frame=${frame} />`)}</details>`)}
      ${error.cause && html`
        <p class="because">${error.cause.because === "while handling" ? "It came while this was handled:" : "It was raised from:"}</p>
        <${Failure} error=${error.cause} />`}
    </div>`;
}

function Frame({ frame }) {
  return html`
    <div class=${frame.own ? "frame own" : "frame"}>
      <p class="place"><code>${frame.file}:${frame.line}</code> ${frame.function && html`in <code>${frame.function}</code>`}</p>
      ${frame.source.length > 0 && html`<pre tabindex="0">${frame.source.map((line, at) => {
        const number = frame.first + at;
        return html`<span class=${number === frame.line ? "here" : ""}><b>${String(number).padStart(5)}</b> ${line}\n</span>`;
      })}</pre>`}
    </div>`;
}

/** Where the author has to look: the last frame of the author's own. */
export function placeOf(error) {
  const own = error.frames.filter((frame) => frame.own);
  const frame = own[own.length - 1] || error.frames[error.frames.length - 1];
  return frame ? `${frame.file}:${frame.line}` : "";
}
