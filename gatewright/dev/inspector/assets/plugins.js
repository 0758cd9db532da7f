// Plugins: where they are, which routes name them, why they aren't called, and a form to try a configuration on.
import { html, useEffect, useState, outcomeClass } from "./lib.js";
import { get, post } from "./api.js";
import { Form, initial } from "./form.js";

export function Plugins({ chosen, onChoose, changed }) {
  const [view, setView] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    get("plugins").then((answer) => (setView(answer), setError("")), (problem) => setError(problem.message));
  }, [changed]);
  if (error) return html`<p class="error" role="alert">${error}</p>`;
  if (!view) return html`<p class="empty">Looking…</p>`;
  const plugin = view.plugins.find((each) => each.name === chosen) || view.plugins[0];
  return html`
    <div class="panes plugins">
      <nav class="pane side" aria-label="Plugins">
        ${view.errors.length > 0 && html`<ul class="notes">${view.errors.map((text) => html`<li class="error">${text}</li>`)}</ul>`}
        <ul class="names">${view.plugins.map((each) => html`
          <li><a href=${`#/plugins/${encodeURIComponent(each.name)}`} aria-current=${each === plugin ? "page" : undefined}
            onClick=${() => onChoose(each.name)}>${each.name}
            ${each.why_not.length > 0 && !each.called && html`<span class="tag failed" title=${each.why_not[0]}>not called</span>`}
            <span class="dim">${each.phases.join(", ") || (each.source ? "no handler" : "not found")}</span></a></li>`)}</ul>
        ${!view.plugins.length && html`<p class="empty">No plugins are known here.</p>`}
      </nav>
      <div class="pane main">${plugin && html`<${Plugin} key=${plugin.name} plugin=${plugin} />`}</div>
    </div>`;
}

function Plugin({ plugin }) {
  return html`
    <article class="call" aria-label=${plugin.name}>
      <header class="callhead"><h2 tabindex="-1">${plugin.name}</h2>
        <p class="facts"><span>${plugin.phases.join(", ") || (plugin.source ? "no handler" : "not found")}</span>${plugin.source && html`<span><code>${plugin.source}</code></span>`}</p></header>
      ${plugin.why_not.length > 0 && html`
        <section aria-labelledby="why"><h3 id="why">${plugin.called ? "When was it not called?" : "Why is it not called?"}</h3>
          <ul class="happened">${plugin.why_not.map((reason) => html`<li class="warn">${reason}</li>`)}</ul></section>`}
      <section aria-labelledby="seen"><h3 id="seen">Seen</h3>
        <p>${Object.keys(plugin.seen).length ? Object.entries(plugin.seen).map(([outcome, count]) => html`<span class=${`outcome ${outcomeClass(outcome)}`}>${outcome}: ${count}</span> `) : html`<span class="dim">No request has asked it yet.</span>`}</p></section>
      <section aria-labelledby="routes"><h3 id="routes">Routes that name it</h3>
        ${plugin.routes.length ? html`
          <table><thead><tr><th scope="col">route</th><th scope="col">paths</th><th scope="col">where</th><th scope="col">configuration</th></tr></thead>
            <tbody>${plugin.routes.map((route) => html`<tr><td>${route.name || route.id}</td><td><code>${route.paths.join(" ") || "any"}</code></td><td>${route.where}</td><td><code>${route.config}</code></td></tr>`)}</tbody></table>`
          : html`<p class="dim">none</p>`}</section>
      ${plugin.source && html`<section aria-labelledby="try"><h3 id="try">Try a configuration on</h3><${Try} plugin=${plugin} /></section>`}
    </article>`;
}

function Try({ plugin }) {
  const start = () => {
    const own = plugin.routes.find((route) => route.config && route.config !== "{}");
    try {
      if (own) return JSON.parse(own.config);
    } catch {
      // what a route has may be no JSON: then the form begins with the schema's own values
    }
    return plugin.schema ? initial(plugin.schema, plugin.schema) : {};
  };
  const [value, setValue] = useState(start);
  const [text, setText] = useState(() => JSON.stringify(start(), null, 2));
  const [result, setResult] = useState(null);
  const change = (next) => {
    setValue(next);
    setText(JSON.stringify(next, null, 2));
    setResult(null);
  };
  const type = (next) => {
    setText(next);
    setResult(null);
    try {
      setValue(JSON.parse(next));
    } catch {
      // while it is being typed, it is no JSON: the form waits
    }
  };
  const submit = async (event) => {
    event.preventDefault();
    setResult({ waiting: true });
    try {
      setResult(await post(`plugins/${encodeURIComponent(plugin.name)}/try`, { config: text }));
    } catch (error) {
      setResult({ error: error.message });
    }
  };
  return html`
    <form class="try" onSubmit=${submit}>
      ${plugin.schema && html`<${Form} schema=${plugin.schema} value=${value} onChange=${change} />`}
      <label>As JSON<textarea rows="8" spellcheck="false" value=${text} onInput=${(event) => type(event.target.value)}></textarea></label>
      <div class="actions"><button class="main" type="submit">Try it on</button>
        <span role="status">${result?.waiting ? "trying…" : result?.ok ? html`<span class="outcome good">It fits.</span>` : result?.error ? html`<span class="error">${result.error}</span>` : ""}</span></div>
      ${plugin.schema && html`<details class="fold"><summary><span>Schema</span></summary><pre class="body" tabindex="0">${JSON.stringify(plugin.schema, null, 2)}</pre></details>`}
    </form>`;
}
