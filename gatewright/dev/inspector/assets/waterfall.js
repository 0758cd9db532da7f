// When what happened: phases, the plugins in them, and requests to the upstream, on one line of time.
import { html, duration, outcomeClass } from "./lib.js";

function bars(record) {
  const out = [];
  record.phases.forEach((phase, at) => {
    const label = phase.stage === phase.name ? phase.name : phase.stage;
    const whole = { at: phase.at, seconds: phase.seconds };
    const single = record.gateway.name === "kong" && phase.plugins.length === 1 && phase.plugins[0].at != null;
    if (!single) out.push({ label, ...whole, kind: "phase", to: `phase-${at}` });
    phase.plugins.forEach((plugin, number) => {
      if (plugin.at == null) return;
      out.push({
        label: single ? `${label} · ${plugin.name}` : plugin.name, at: plugin.at, seconds: plugin.seconds,
        kind: outcomeClass(plugin.outcome), note: plugin.outcome, behind: single ? whole : null,
        inner: !single, to: `plugin-${at}-${number}`,
        marks: plugin.asked.map((asked) => ({ at: asked.at, seconds: asked.seconds, title: `${asked.what} ${asked.name}` })),
      });
    });
  });
  record.upstream.forEach((sent, at) => {
    out.push({ label: `upstream ${sent.answer ? sent.answer.status : "failed"}`, at: sent.at, seconds: sent.seconds,
      kind: sent.answer ? "upstream" : "bad", note: sent.address, to: `upstream-${at}` });
  });
  const begin = (row) => row.behind?.at ?? row.at;
  return out.sort((one, other) => begin(one) - begin(other) || Number(!!one.inner) - Number(!!other.inner));
}

export function Waterfall({ record }) {
  const rows = bars(record);
  if (!rows.length) return html`<p class="dim">No plugin and no upstream was asked.</p>`;
  const whole = Math.max(record.seconds, ...rows.map((row) => row.at + Math.max(row.seconds, 0)), 1e-6);
  const place = (at, seconds) => ({ left: `${Math.max(0, (at / whole) * 100)}%`, width: `${Math.max(0.4, (Math.max(seconds, 0) / whole) * 100)}%` });
  const go = (id) => {
    const element = document.getElementById(id);
    if (element?.tagName === "DETAILS") element.open = true;
    element?.scrollIntoView({ block: "start" });
    element?.querySelector("summary, h4")?.focus?.();
  };
  return html`
    <ol class="waterfall" aria-label="Waterfall">
      ${rows.map((row) => html`
        <li class=${row.inner ? "inner" : ""}>
          <button onClick=${() => go(row.to)} aria-label=${`${row.label}${row.note ? `, ${row.note}` : ""}, ${duration(row.seconds)}: show`}>
            <span class="label">${row.label}</span>
            <span class="track">${row.behind && html`<span class="bar phase" style=${place(row.behind.at, row.behind.seconds)}></span>`}<span class=${`bar ${row.kind}`} style=${place(row.at, row.seconds)}></span>
              ${(row.marks || []).map((mark) => html`<span class="mark" title=${mark.title} style=${place(mark.at, mark.seconds)}></span>`)}
            </span>
            <span class="took">${duration(row.behind?.seconds ?? row.seconds)}</span>
          </button>
        </li>`)}
    </ol>
    <p class="scale dim"><span>0</span><span>${duration(whole)}</span></p>`;
}
