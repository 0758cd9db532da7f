// The page: where one is, what is shown, what keys do.
import { html, render, useCallback, useEffect, useErrorBoundary, useMemo, useRef, useState, plural } from "./lib.js";
import { follow, get, post } from "./api.js";
import { Actions, Dialog } from "./actions.js";
import { Call } from "./call.js";
import { filtered } from "./filter.js";
import { beside, CallList } from "./list.js";
import { Plugins } from "./plugins.js";

function useHash() {
  const read = () => {
    const [, view = "calls", item = ""] = location.hash.slice(1).split("/");
    return { view: view || "calls", item: decodeURIComponent(item) };
  };
  const [place, setPlace] = useState(read);
  useEffect(() => {
    const change = () => setPlace(read());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return place;
}

/** All calls, the newest first, kept up to date. */
function useCalls(live, onFacts) {
  const [calls, setCalls] = useState([]);
  const [state, setState] = useState("connecting");
  const table = useRef(new Map());
  const meanwhile = useRef(null); // what is told while all calls are asked for: the answer may be older
  const show = () => setCalls([...table.current.values()].sort((one, other) => other.id - one.id));
  const take = ({ calls: told, gone }) => {
    for (const call of told) table.current.set(call.id, call);
    for (const id of gone) table.current.delete(id);
  };
  const load = async () => {
    const told = (meanwhile.current = []);
    try {
      const answer = await get("calls");
      if (meanwhile.current !== told) return; // they have been asked for again
      table.current = new Map(answer.calls.map((call) => [call.id, call]));
      told.forEach(take);
      show();
    } finally {
      if (meanwhile.current === told) meanwhile.current = null;
    }
  };
  useEffect(() => {
    if (live === undefined) return undefined;
    if (!live) {
      load().then(() => setState("file"), () => setState("gone"));
      return undefined;
    }
    return follow({
      onFacts,
      onState(open) {
        setState(open ? "live" : "gone");
        if (open) load().catch(() => {}); // from now on all is told; `gatewright dev` may have begun anew
      },
      onCalls(news) {
        if (news.anew) {
          load().catch(() => {});
          return;
        }
        meanwhile.current?.push(news);
        take(news);
        show();
      },
    });
  }, [live]);
  return [calls, state];
}

function App() {
  const { view, item } = useHash();
  const [about, setAbout] = useState(null);
  const [changed, setChanged] = useState(0);
  const [calls, state] = useCalls(about?.live, () => setChanged((count) => count + 1));
  const [text, setText] = useState("");
  const [help, setHelp] = useState(false);
  const [message, setMessage] = useState("");
  const list = useRef(null);
  const search = useRef(null);
  const shown = useMemo(() => filtered(calls, text), [calls, text]);
  const selected = view === "calls" && item ? Number(item) : null;

  useEffect(() => {
    get("about").then(setAbout, (error) => setMessage(error.message));
  }, [changed]);
  useEffect(() => {
    if (!message) return undefined;
    const timer = setTimeout(() => setMessage(""), 8000);
    return () => clearTimeout(timer);
  }, [message]);

  const choose = useCallback((id) => {
    if (location.hash !== `#/calls/${id}`) location.hash = `#/calls/${id}`;
  }, []);

  useEffect(() => {
    const keys = (event) => {
      const field = event.target.closest?.("input, textarea, select, dialog");
      if (field || event.ctrlKey || event.metaKey || event.altKey) {
        if (event.key === "Escape" && event.target === search.current) list.current?.focus();
        return;
      }
      const press = (id) => document.getElementById(id)?.click();
      const does = {
        "/": () => search.current?.focus(),
        "?": () => setHelp(true),
        1: () => (location.hash = "#/calls"),
        2: () => (location.hash = "#/plugins"),
        j: () => (list.current?.focus(), step(1)),
        k: () => (list.current?.focus(), step(-1)),
        r: () => press("replay"),
        e: () => press("edit"),
        c: () => press("curl"),
        t: () => press("test"),
        s: () => press("reveal"),
        Escape: () => {
          if (view === "calls" && item) location.hash = "#/calls";
          list.current?.focus();
        },
      }[event.key];
      if (does) {
        event.preventDefault();
        does();
      }
    };
    const step = (by) => {
      const next = beside(shown, selected, by);
      if (next) choose(next.id);
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, [shown, selected, view, item]);

  const states = { live: "live", gone: "gatewright dev is gone", file: "a file", connecting: "connecting…" };
  return html`
    <header class="top">
      <h1><a class="brand" href="#/calls" aria-label="Gatewright inspector"><img src="assets/icon.svg" alt="" width="22" height="22" /><span>Gatewright</span></a></h1>
      <nav aria-label="Views"><a href="#/calls" aria-current=${view === "calls" ? "page" : undefined}>Calls</a>
        <a href="#/plugins" aria-current=${view === "plugins" ? "page" : undefined}>Plugins</a></nav>
      <span class="grow"></span>
      ${about && html`<span class="gateway">as ${about.gateway.name === "kong" ? "Kong" : `APISIX ${about.gateway.version}`}</span>`}
      <span class=${`state ${state}`} role="status"><i aria-hidden="true"></i>${states[state]}</span>
      <button class="quiet" onClick=${theme} aria-label="Light or dark" title="Light or dark">◐</button>
      <button class="quiet" onClick=${() => setHelp(true)} aria-label="Keys" title="Keys (?)">?</button>
    </header>
    <main>
      ${view === "plugins"
        ? html`<${Plugins} chosen=${item} onChoose=${() => {}} changed=${changed} />`
        : html`
          <div class=${`panes ${selected != null ? "chosen" : ""}`}>
            <div class="pane side">
              <div class="filter">
                <input ref=${search} type="search" aria-label="Filter calls" placeholder="Filter: post 5xx plugin:name is:failed" value=${text}
                  onInput=${(event) => setText(event.target.value)} spellcheck="false" autocomplete="off" />
                <div class="quick" role="group" aria-label="Filters">
                  ${["is:failed", "is:stopped", "5xx"].map((word) => html`<button class="quiet" aria-pressed=${text.includes(word) ? "true" : "false"}
                    onClick=${() => setText(text.includes(word) ? text.replace(word, "").trim() : `${text} ${word}`.trim())}>${word.replace("is:", "")}</button>`)}
                  <span class="count" role="status">${shown.length === calls.length ? plural(calls.length, "call") : `${shown.length} of ${plural(calls.length, "call")}`}</span>
                  ${about?.live && html`<button class="quiet" onClick=${() => post("clear").then(() => (location.hash = "#/calls"))}>clear</button>`}
                </div>
              </div>
              ${calls.length === 0 && about ? html`<${Empty} about=${about} />` : ""}
              <${CallList} calls=${shown} selected=${selected} onSelect=${choose} listRef=${list}
                onOpen=${() => setTimeout(() => matchMedia("(max-width: 760px)").matches && document.getElementById("call-title")?.focus(), 50)} />
            </div>
            <div class="pane main">
              ${selected != null ? html`<${Chosen} key=${selected} id=${selected} live=${about?.live} summary=${calls.find((call) => call.id === selected)} onError=${setMessage} onChoose=${choose} />`
                : html`<p class="empty">Choose a call: <kbd>j</kbd> <kbd>k</kbd> or the arrow keys. <kbd>?</kbd> shows all keys.</p>`}
            </div>
          </div>`}
    </main>
    ${message && html`<p class="toast" role="alert">${message}</p>`}
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}`;
}

function Empty({ about }) {
  return html`<p class="empty">${about.live ? html`Nothing was asked yet. Try:<br /><code>curl -i ${about.url}/hello</code>` : "The file has no records."}</p>`;
}

/** What can't be drawn, a record of a file that somebody has edited, say, must not take the page with it. */
function Whole({ record, children }) {
  const [error] = useErrorBoundary((fault) => console.info(fault));
  return error
    ? html`<article aria-label="Call ${record.id}"><p class="empty">This call can't be shown: ${String(error)}</p><pre class="body">${JSON.stringify(record, null, 2)}</pre></article>`
    : children;
}

function Chosen({ id, live, summary, onError, onChoose }) {
  const [record, setRecord] = useState(null);
  const [revealed, setRevealed] = useState(false);
  const [dialog, setDialog] = useState("");
  const [gone, setGone] = useState("");
  useEffect(() => {
    let wanted = true;
    const ask = revealed ? post(`calls/${id}/reveal`) : get(`calls/${id}`);
    ask.then((answer) => wanted && (setRecord(answer), setGone("")), (error) => wanted && setGone(error.message));
    return () => { wanted = false; };
  }, [id, revealed, summary]);
  if (!record) return html`<p class="empty">${gone || "Looking…"}</p>`;
  const actions = html`
    <a class="back" href="#/calls">← all calls</a>
    <${Actions} record=${record} live=${live} revealed=${revealed} onReveal=${() => setRevealed(!revealed)} dialog=${dialog} setDialog=${setDialog}
      onReplayed=${onChoose} onError=${onError} />`;
  return html`${gone && html`<p class="leaving" role="status">${gone}: this is what was seen of it.</p>`}<${Whole} record=${record}><${Call} record=${record} actions=${actions} /><//>`;
}

function Help({ onClose }) {
  const keys = [
    ["j k ↓ ↑", "next, previous call"], ["PgDn PgUp Home End", "further"], ["Enter", "open"], ["Esc", "back to the list"], ["/", "filter"],
    ["r", "replay"], ["e", "edit and replay"], ["c", "as curl"], ["t", "as a test"], ["s", "reveal or hide secrets"], ["1 2", "calls, plugins"], ["?", "these keys"],
  ];
  return html`<${Dialog} title="Keys" onClose=${onClose}>
    <table class="keys"><tbody>${keys.map(([key, what]) => html`<tr><th scope="row">${key.split(" ").map((each) => html`<kbd>${each}</kbd> `)}</th><td>${what}</td></tr>`)}</tbody></table>
    <h3>Filter</h3><p>Words that must all fit: a part of the path, a method, a plugin's name, <code>404</code>, <code>5xx</code>, <code>is:failed</code>, <code>is:stopped</code>, <code>is:noted</code>, <code>is:replay</code>, <code>plugin:name</code>, <code>not:word</code>.</p>
  <//>`;
}

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = localStorage.theme = dark ? "light" : "dark";
}

if (localStorage.theme) document.documentElement.dataset.theme = localStorage.theme;
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
