// One call: what happened first, then when, then who did what, then everything that was sent.
import { html, duration, statusClass, outcomeClass, plural, clock } from "./lib.js";
import { Changes } from "./diff.js";
import { Failure, placeOf } from "./failure.js";
import { Body, Headers, Value, isBody } from "./message.js";
import { Waterfall } from "./waterfall.js";

export function Call({ record, actions }) {
  const answer = record.answer;
  return html`
    <article class="call" aria-label=${`Call ${record.id}`}>
      <header class="callhead">
        <h2 tabindex="-1" id="call-title"><span class="method">${record.request.method}</span> <span class="target">${record.request.target}</span></h2>
        <p class="facts">
          <span class=${`status ${statusClass(answer?.status)}`}>${answer ? `${answer.status} ${answer.reason}` : "closed without an answer"}</span>
          <span>${duration(record.seconds)}</span>
          <span>${clock(record.at)}</span>
          <span>${record.route ? `route ${record.route.name || record.route.id}` : "no route"}</span>
          <span>call ${record.id}${record.replay_of != null ? html`, replay of <a href=${`#/calls/${record.replay_of}`}>${record.replay_of}</a>` : ""}</span>
        </p>
        ${actions}
      </header>
      <${Happened} record=${record} />
      <section aria-labelledby="when"><h3 id="when">When</h3><${Waterfall} record=${record} /></section>
      <section aria-labelledby="who"><h3 id="who">Plugins</h3>
        ${record.phases.length ? "" : html`<p class="dim">${record.route ? "This route asks no plugin of ours." : "No route suits the request, so no plugin was asked."}</p>`}
        ${record.phases.map((phase, at) => html`<${Phase} phase=${phase} at=${at} record=${record} />`)}
      </section>
      <section aria-labelledby="upstream"><h3 id="upstream">Upstream</h3>
        ${record.upstream.length ? "" : html`<p class="dim">It was not asked.</p>`}
        ${record.upstream.map((sent, at) => html`<${Sent} sent=${sent} at=${at} />`)}
      </section>
      <section aria-labelledby="client"><h3 id="client">Client</h3>
        <${Fold} title="What the client sent" note=${`${record.request.method} ${record.request.target}`}>
          <${Headers} headers=${record.request.headers} label="Headers of the client's request" /><${Body} body=${record.request.body} />
        <//>
        <${Fold} title="What the client got" note=${answer ? String(answer.status) : "nothing"} open=${true}>
          ${answer && html`<${Headers} headers=${answer.headers} label="Headers of the answer" /><${Body} body=${answer.body} />`}
        <//>
        <${Notes} notes=${record.notes} />
      </section>
    </article>`;
}

/** The first thing to read: what went wrong, or who answered. */
function Happened({ record }) {
  const lines = [];
  record.phases.forEach((phase, at) => phase.plugins.forEach((plugin, number) => {
    const link = html`<a href=${`#/calls/${record.id}`} onClick=${(event) => {
      event.preventDefault();
      document.getElementById(`plugin-${at}-${number}`)?.scrollIntoView();
    }}>${plugin.name}</a>`;
    if (plugin.outcome === "failed" || plugin.outcome === "timed out")
      lines.push(["bad", html`${link} ${plugin.outcome === "failed" ? "failed" : "took too long"}: ${plugin.error ? `${plugin.error.type}: ${plugin.error.text}` : plugin.why} ${plugin.error ? html`<code>${placeOf(plugin.error)}</code>` : ""}`]);
    else if (plugin.outcome === "skipped") lines.push(["warn", html`${link} was skipped, and its changes taken back: ${plugin.why}`]);
    else if (plugin.outcome === "answered") lines.push(["stop", html`${link} answered the client in the phase ${phase.name}; what comes after it was not asked`]);
    else if (plugin.outcome === "not called" && plugin.why && !plugin.why.startsWith("not reached") && !plugin.why.startsWith("no handler"))
      lines.push(["bad", html`${link} can't be used: ${plugin.why}`]);
  }));
  if (record.unrecorded) lines.push(["warn", "The runner did not tell of all of it: it was too busy, it ended, or it is none of ours."]);
  for (const hint of hints(record)) lines.push(["warn", hint]);
  if (!lines.length) return "";
  return html`<ul class="happened">${lines.map(([kind, line]) => html`<li class=${kind}>${line}</li>`)}</ul>`;
}

/** What a gateway makes of a reply that its author may not expect. */
function hints(record) {
  const out = [];
  if (record.gateway.name !== "apisix") return out;
  const sent = record.upstream[record.upstream.length - 1];
  const repeated = new Map(); // the last plugin's word counts
  for (const phase of record.phases)
    for (const plugin of phase.name === "request" ? phase.plugins : [])
      for (const change of plugin.changes) if (change.of === "header") repeated.set(change.name, change.after || []);
  for (const [name, values] of repeated) {
    const got = sent?.headers.filter(([present]) => present.toLowerCase() === name).map(([, value]) => value) || [];
    if (values.length > 1 && got.length === 1)
      out.push(html`APISIX joins repeated headers: it can be told one value of <code>${name}</code>, so the ${values.length} values went upstream as <code>${got[0]}</code>`);
  }
  return out;
}

function Fold({ title, note, open = false, id, children }) {
  return html`<details id=${id} class="fold" open=${open}><summary><span>${title}</span> ${note != null && html`<span class="dim">${note}</span>`}</summary><div class="inside">${children}</div></details>`;
}

function Phase({ phase, at, record }) {
  const kong = record.gateway.name === "kong";
  return html`
    <div class=${kong && at > 0 && record.phases[at - 1].name === phase.name ? "phase same" : "phase"} id=${`phase-${at}`}>
      ${kong
        ? at > 0 && record.phases[at - 1].name === phase.name ? "" : html`<h4>Phase ${phase.name}</h4>`
        : html`<h4>${phase.stage} <span class="dim">${phase.name === "request" ? "on_request" : "on_response"} ${duration(phase.seconds)}</span></h4>`}
      ${phase.plugins.map((plugin, number) => html`<${Plugin} plugin=${plugin} phase=${phase} id=${`plugin-${at}-${number}`} />`)}
      ${phase.asked.length > 0 && html`<${Fold} title="Asked for no plugin" note=${plural(phase.asked.length, "question")}><${Asked} asked=${phase.asked} /><//>`}
      ${!kong && html`<${Reply} phase=${phase} />`}
      ${(phase.error || phase.refused) && html`<p class="error">${phase.refused && html`The runner refused: ${phase.refused}. `}${phase.error && html`The gateway: ${phase.error}`}</p>`}
      <${Notes} notes=${phase.notes} />
    </div>`;
}

function Plugin({ plugin, phase, id }) {
  const kind = outcomeClass(plugin.outcome);
  const quiet = plugin.outcome === "not called" && !plugin.error;
  return html`
    <details class=${`plugin ${kind}`} id=${id} open=${!quiet}>
      <summary><strong>${plugin.name}</strong> <span class=${`outcome ${kind}`}>${plugin.outcome}</span>
        <span class="dim" title=${phase.stage === phase.name ? `with the gateway's part: ${duration(phase.seconds)}` : undefined}>${duration(plugin.seconds)}</span>
        <span class="sum">${[
          plugin.changes.length && plural(plugin.changes.length, "change"),
          plugin.asked.length && plural(plugin.asked.length, "question"),
          plugin.log.length && plural(plugin.log.length, "log line"),
        ].filter(Boolean).join(", ")}</span></summary>
      <div class="inside">
        ${plugin.why && !plugin.error && html`<p class="why">${plugin.why}</p>`}
        ${plugin.error && html`<${Failure} error=${plugin.error} />`}
        ${plugin.answer && html`<div class="answered"><h5>Its answer: ${plugin.answer.status}</h5><${Headers} headers=${plugin.answer.headers} label="Headers of its answer" /><${Body} body=${plugin.answer.body} /></div>`}
        ${!quiet && plugin.outcome !== "unknown" && html`<${Changes} changes=${plugin.changes} />`}
        ${plugin.log.length > 0 && html`<h5>Log</h5><${Log} lines=${plugin.log} />`}
        ${plugin.asked.length > 0 && html`<h5>Asked the gateway</h5><${Asked} asked=${plugin.asked} />`}
        <${Unchanged} plugin=${plugin} phase=${phase} />
        ${plugin.config && plugin.config !== "{}" && html`<${Fold} title="Configuration"><pre class="body">${pretty(plugin.config)}</pre><//>`}
      </div>
    </details>`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** What the plugin was shown and left as it was. */
function Unchanged({ plugin, phase }) {
  const came = phase.came;
  if (!came.headers || plugin.at == null) return "";
  const changed = new Set(plugin.changes.filter((change) => change.of.endsWith("header")).map((change) => change.name.toLowerCase()));
  const headers = came.headers.filter(([name]) => !changed.has(name.toLowerCase()));
  const args = (came.query || []).filter(([name]) => !plugin.changes.some((change) => change.of === "query" && change.name === name));
  return html`<${Fold} title="Unchanged" note=${`${plural(headers.length, "header")}${came.query ? `, ${plural(args.length, "argument")}` : ""}`}>
    <${Headers} headers=${headers} label="Unchanged headers" />
    ${args.length > 0 && html`<h5>Arguments</h5><${Headers} headers=${args} label="Unchanged arguments" />`}<//>`;
}

function Asked({ asked }) {
  return html`
    <table class="asked"><thead><tr><th scope="col">what</th><th scope="col">answer</th><th scope="col" class="number">took</th></tr></thead>
      <tbody>${asked.map((each) => html`
        <tr><td><code>${each.what === "pdk" ? each.name : each.what === "var" ? `var ${each.name}` : each.what.replace("_", " ")}</code></td>
          <td>${each.error ? html`<span class="error">${each.error}</span>` : html`<${Answer} value=${each.answer} />`}</td>
          <td class="number">${duration(each.seconds)}</td></tr>`)}
      </tbody></table>`;
}

function Answer({ value }) {
  if (value == null) return html`<span class="dim">nothing</span>`;
  if (isBody(value)) return value.text !== undefined ? html`<code>${value.text.slice(0, 300)}${value.text.length > 300 ? "…" : ""}</code>` : html`${value.size} bytes`;
  return html`<code><${Value} text=${typeof value === "string" ? value : JSON.stringify(value)} /></code>`;
}

function Log({ lines }) {
  return html`<ol class="log">${lines.map((line) => html`
    <li><span class="time">${duration(line.at)}</span> <span class=${`level ${line.level}`}>${line.level}</span> ${line.text}
      ${Object.entries(line.fields).filter(([name]) => name !== "logger").map(([name, value]) => html` <span class="field">${name}=<b>${value}</b></span>`)}</li>`)}</ol>`;
}

function Reply({ phase }) {
  const reply = phase.reply;
  if (!reply) return "";
  const words = { rewrite: "go on, changed", stop: "stop", response: "the response", "nothing to change": "go on, unchanged" };
  return html`
    <${Fold} title="The runner's reply" note=${words[reply.kind] || reply.kind}>
      ${reply.status ? html`<p>status ${reply.status}</p>` : ""}${reply.path ? html`<p>path <code>${reply.path}</code></p>` : ""}
      ${reply.headers && html`<h5>Headers</h5><${Headers} headers=${reply.headers} label="Headers of the reply" />`}
      ${reply.query?.length > 0 && html`<h5>Arguments</h5><${Headers} headers=${reply.query} label="Arguments of the reply" />`}
      ${reply.response_headers?.headers.length > 0 && html`<h5>Headers for the client</h5><${Headers} headers=${reply.response_headers.headers} label="Headers for the client" />`}
      ${reply.body && html`<${Body} body=${reply.body} />`}
    <//>
    <${Fold} title="What APISIX made of it" note=${phase.made.length ? plural(phase.made.length, "change") : "no change"} open=${phase.made.length > 0}>
      <${Changes} changes=${phase.made} none="The request is as it was." /><//>`;
}

function Sent({ sent, at }) {
  return html`
    <div class="sent" id=${`upstream-${at}`}>
      <h4>${sent.address} <span class="dim">${duration(sent.seconds)}</span></h4>
      <${Fold} title="What went upstream" note=${`${sent.method} ${sent.target}`}><${Headers} headers=${sent.headers} label="Headers sent upstream" /><${Body} body=${sent.body} /><//>
      ${sent.error && html`<p class="error">${sent.error}</p>`}
      ${sent.answer && html`<${Fold} title="What came back" note=${`${sent.answer.status} ${sent.answer.reason}${sent.answer.complete ? "" : ", broken off"}`}>
        <${Headers} headers=${sent.answer.headers} label="Headers of the upstream's answer" /><${Body} body=${sent.answer.body} /><//>`}
    </div>`;
}

function Notes({ notes }) {
  return notes.length ? html`<ul class="notes">${notes.map((note) => html`<li class=${note.level}>${note.text}</li>`)}</ul>` : "";
}
