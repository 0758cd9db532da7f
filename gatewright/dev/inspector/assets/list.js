// The list of calls. Only the rows in sight are in the document, so that ten thousand calls are as quick as ten.
import { html, useEffect, useLayoutEffect, useRef, useState, duration, statusClass, outcomeClass, clock } from "./lib.js";

const ROW = 54; // pixels; style.css has it, too
const SPARE = 6; // rows beyond what is in sight

/** The call that is so many rows below another one, which need not be in the list any more: then from where it would be. */
export function beside(calls, selected, by) {
  if (selected == null) return calls[0];
  const at = calls.findIndex((call) => call.id <= selected);
  const place = at < 0 ? calls.length : at;
  const missing = calls[place]?.id !== selected;
  return calls[Math.max(0, Math.min(calls.length - 1, place + by - (missing && by > 0 ? 1 : 0)))];
}

export function CallList({ calls, selected, onSelect, onOpen, listRef }) {
  const [view, setView] = useState({ top: 0, height: 600 });
  const box = listRef;
  const follows = useRef(true); // the newest call is at the top, and stays in sight

  useEffect(() => {
    const element = box.current;
    const look = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(look);
    observer.observe(element);
    look();
    return () => observer.disconnect();
  }, []);

  const index = calls.findIndex((call) => call.id === selected);

  useLayoutEffect(() => {
    const element = box.current;
    if (index < 0) return;
    const top = index * ROW;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + ROW > element.scrollTop + element.clientHeight) element.scrollTop = top + ROW - element.clientHeight;
  }, [selected, index >= 0]); // one that is chosen may come into the list later

  // New calls come in at the top: what is being read must not move away.
  const before = useRef({ first: null, length: 0 });
  useLayoutEffect(() => {
    const element = box.current;
    const was = before.current;
    if (was.first != null && calls.length && calls[0].id !== was.first && element.scrollTop > ROW / 2) {
      const moved = calls.findIndex((call) => call.id <= was.first);
      if (moved > 0) element.scrollTop += moved * ROW;
    }
    before.current = { first: calls.length ? calls[0].id : null, length: calls.length };
  }, [calls]);

  const move = (call) => call && onSelect(call.id);
  const keys = (event) => {
    const page = Math.max(1, Math.floor(view.height / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, j: 1, k: -1 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) move(beside(calls, selected, steps[event.key]));
    else if (event.key === "Home") move(calls[0]);
    else if (event.key === "End") move(calls[calls.length - 1]);
    else if (event.key === "Enter" && selected != null) onOpen();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };

  const first = Math.max(0, Math.floor(view.top / ROW) - SPARE);
  const last = Math.min(calls.length, Math.ceil((view.top + view.height) / ROW) + SPARE);
  const rows = calls.slice(first, last).map((call, offset) => html`
    <${Row} key=${call.id} call=${call} position=${first + offset} count=${calls.length}
      chosen=${call.id === selected} onClick=${() => { onSelect(call.id); onOpen(); }} />`);
  return html`
    <div class="list" role="listbox" tabindex="0" aria-label="Calls, the newest first" ref=${box} onKeyDown=${keys}
      aria-activedescendant=${index >= first && index < last ? `call-${selected}` : undefined}
      onScroll=${(event) => setView({ top: event.target.scrollTop, height: event.target.clientHeight })}>
      <div class="rows" role="presentation" style=${{ height: `${calls.length * ROW}px` }}>
        <div class="window" role="presentation" style=${{ transform: `translateY(${first * ROW}px)` }}>${rows}</div>
      </div>
    </div>`;
}

function Row({ call, position, count, chosen, onClick }) {
  const names = Object.entries(call.plugins);
  const mark = call.mark === "failed" ? "failed" : call.mark === "stopped" ? "stopped" : "";
  return html`
    <div class=${`row ${mark}`} role="option" id=${`call-${call.id}`} aria-selected=${chosen ? "true" : "false"}
      aria-posinset=${position + 1} aria-setsize=${count} onClick=${onClick}>
      <div class="line">
        <span class="method">${call.method}</span>
        <span class="target" title=${call.target}>${call.target}</span>
        <span class=${`status ${statusClass(call.status)}`}>${call.status ?? "closed"}</span>
      </div>
      <div class="line small">
        <span class="names">
          ${names.length ? names.map(([name, outcome]) => html`<span class=${`name ${outcomeClass(outcome)}`}
            title=${`${name}: ${outcome}`}><i aria-hidden="true"></i>${name}</span>`) : html`<span class="dim">no plugin</span>`}
        </span>
        ${call.replay_of != null && html`<span class="tag">replay</span>`}
        ${mark && html`<span class=${`tag ${mark}`}>${mark === "failed" ? "✕ failed" : "■ stopped"}</span>`}
        <span class="time" title=${clock(call.at)}>${duration(call.seconds)}</span>
      </div>
    </div>`;
}
