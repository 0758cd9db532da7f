// What can be done with a call: send it again, as it was or edited; have it as curl or as a test; see its secrets.
import { html, useEffect, useRef, useState } from "./lib.js";
import { post } from "./api.js";
import { Copied } from "./message.js";

export function Actions({ record, live, revealed, onReveal, onReplayed, onError, dialog, setDialog }) {
  const replay = async () => {
    try {
      onReplayed((await post(`calls/${record.id}/replay`)).id);
    } catch (error) {
      onError(error.message);
    }
  };
  return html`
    <div class="actions" role="group" aria-label="What to do with this call">
      ${live && html`<button class="main" id="replay" onClick=${replay} title="r">Replay</button>`}
      ${live && html`<button id="edit" onClick=${() => setDialog("edit")} title="e">Edit and replay…</button>`}
      <button id="curl" onClick=${() => setDialog("curl")} title="c">As curl…</button>
      <button id="test" onClick=${() => setDialog("test")} title="t">As a test…</button>
      ${live && html`<button id="reveal" aria-pressed=${revealed ? "true" : "false"} onClick=${onReveal} title="s">${revealed ? "Hide secrets" : "Reveal secrets"}</button>`}
    </div>
    ${dialog === "edit" && html`<${Edit} record=${record} onClose=${() => setDialog("")} onReplayed=${onReplayed} />`}
    ${(dialog === "curl" || dialog === "test") && html`<${Export} key=${dialog} kind=${dialog} record=${record} revealed=${revealed} onClose=${() => setDialog("")} />`}`;
}

/** A dialog of the browser's own: it keeps the focus inside, and Escape closes it. */
export function Dialog({ title, onClose, children }) {
  const box = useRef(null);
  useEffect(() => {
    const element = box.current;
    element.showModal();
    element.querySelector("[data-focus]")?.focus();
    return () => element.close();
  }, []);
  return html`
    <dialog ref=${box} aria-label=${title} onClose=${onClose} onKeyDown=${(event) => event.stopPropagation()}
      onClick=${(event) => event.target === box.current && onClose()}>
      <div class="dialog"><header><h3>${title}</h3><button class="quiet" onClick=${onClose} aria-label="Close">✕</button></header>${children}</div>
    </dialog>`;
}

function Export({ kind, record, revealed, onClose }) {
  const [text, setText] = useState(null);
  const [error, setError] = useState("");
  useEffect(() => {
    post(`calls/${record.id}/${kind}`, { revealed }).then((answer) => setText(answer.text), (problem) => setError(problem.message));
  }, []);
  const name = "test_recorded.py";
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/x-python" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return html`
    <${Dialog} title=${kind === "curl" ? "As curl" : "As a pytest test"} onClose=${onClose}>
      ${error && html`<p class="error" role="alert">${error}</p>`}
      ${text != null && html`<pre class="body export" tabindex="0">${text}</pre>
        <p class="dim">${revealed ? "Its secrets are in it." : "Secrets are blacked out: reveal them first to have them in it."}</p>
        <div class="actions"><${Copied} text=${text} label="Copy" />${kind === "test" && html`<button onClick=${save}>Save as ${name}</button>`}</div>`}
    <//>`;
}

function Edit({ record, onClose, onReplayed }) {
  const request = record.request;
  const text = request.body?.text;
  const [method, setMethod] = useState(request.method);
  const [target, setTarget] = useState(request.target);
  const [headers, setHeaders] = useState(
    request.headers.filter(([name]) => !/^(content-length|transfer-encoding)$/i.test(name)).map(([name, value]) => `${name}: ${value}`).join("\n"),
  );
  const [body, setBody] = useState(text ?? "");
  const [error, setError] = useState("");
  const send = async (event) => {
    event.preventDefault();
    const edits = { method, target };
    if (target === request.target) delete edits.target; // what is blacked out in it stays as it was
    edits.headers = headers.split("\n").filter((line) => line.trim()).map((line) => {
      const at = line.indexOf(":");
      return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    });
    if (body !== (text ?? "")) edits.body = body;
    try {
      onReplayed((await post(`calls/${record.id}/replay`, edits)).id);
      onClose();
    } catch (problem) {
      setError(problem.message);
    }
  };
  const submit = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && send(event);
  return html`
    <${Dialog} title="Edit and replay" onClose=${onClose}>
      <form onSubmit=${send} onKeyDown=${submit}>
        <div class="two"><label>Method<input value=${method} onInput=${(event) => setMethod(event.target.value)} size="8" autocomplete="off" /></label>
          <label class="grow">Target<input value=${target} onInput=${(event) => setTarget(event.target.value)} autocomplete="off" spellcheck="false" data-focus /></label></div>
        <label>Headers, one a line<textarea rows="8" spellcheck="false" value=${headers} onInput=${(event) => setHeaders(event.target.value)}></textarea></label>
        <p class="dim">A value that says [redacted] is sent as it was. Content-Length is written anew.</p>
        <label>Body${request.body && text === undefined ? " (it is not text; what you write here replaces it)" : ""}
          <textarea rows="6" spellcheck="false" value=${body} onInput=${(event) => setBody(event.target.value)}></textarea></label>
        ${error && html`<p class="error" role="alert">${error}</p>`}
        <div class="actions"><button class="main" type="submit">Send</button><button type="button" onClick=${onClose}>Cancel</button><span class="dim">Ctrl Enter sends</span></div>
      </form>
    <//>`;
}
