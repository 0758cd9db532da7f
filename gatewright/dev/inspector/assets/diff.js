// What was changed: before and after, coloured, and what was not, folded.
import { html, plural } from "./lib.js";
import { Body, isBody } from "./message.js";

const TITLES = {
  header: "Request headers", query: "Arguments", path: "Path", body: "Request body", status: "Status", method: "Method",
  target: "Target", upstream: "Upstream", consumer: "Consumer", "response header": "Response headers", "response body": "Response body",
};

export function Changes({ changes, none = "changed nothing" }) {
  if (!changes.length) return html`<p class="dim">${none}</p>`;
  const groups = new Map();
  for (const change of changes) groups.set(change.of, [...(groups.get(change.of) || []), change]);
  return html`<div class="changes">${[...groups].map(([of, items]) => html`<${Group} of=${of} items=${items} />`)}</div>`;
}

function Group({ of, items }) {
  if (of === "body" || of === "response body") {
    return items.map((item) => html`<h5>${TITLES[of]}</h5><${BodyDiff} before=${item.before} after=${item.after} />`);
  }
  const named = items.some((item) => item.name);
  return html`
    <table class="diff">
      <caption>${TITLES[of] || of}</caption>
      <thead><tr>${named && html`<th scope="col">name</th>`}<th scope="col">before</th><th scope="col">after</th></tr></thead>
      <tbody>${items.map((item) => html`
        <tr>${named && html`<th scope="row">${item.name}</th>`}
          <td class="before"><${Values} value=${item.before} as="del" /></td>
          <td class="after"><${Values} value=${item.after} as="ins" /></td></tr>`)}
      </tbody>
    </table>`;
}

function Values({ value, as }) {
  if (value == null) return html`<span class="dim">–</span>`;
  const values = Array.isArray(value) ? value : [value];
  return values.map((item) => {
    const text = item == null ? "(no value)" : typeof item === "object" ? JSON.stringify(item) : String(item);
    return as === "del" ? html`<del>${text || " "}</del>` : html`<ins>${text || " "}</ins>`;
  });
}

/** Two texts line by line, or both bodies as they are where they are no text. */
function BodyDiff({ before, after }) {
  if (!isBody(before) || before.text === undefined || after?.text === undefined) {
    return html`
      <div class="sides">
        <div><h6>before</h6>${before ? html`<${Body} body=${before} />` : html`<p class="dim">not looked at</p>`}</div>
        <div><h6>after</h6><${Body} body=${after} /></div>
      </div>`;
  }
  return html`<pre class="textdiff">${lines(before.text, after.text).map(([kind, text]) =>
    kind === "+" ? html`<ins>+ ${text}\n</ins>` : kind === "-" ? html`<del>- ${text}\n</del>` : html`<span>  ${text}\n</span>`)}</pre>`;
}

const MOST = 600; // lines of each; beyond that, what differs is shown whole

function lines(before, after) {
  const both = [pretty(before), pretty(after)];
  const [old, now] = (both.every(Boolean) ? both : [before, after]).map((text) => text.split("\n"));
  let head = 0;
  while (head < old.length && head < now.length && old[head] === now[head]) head++;
  let tail = 0;
  while (tail < old.length - head && tail < now.length - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail++;
  const a = old.slice(head, old.length - tail);
  const b = now.slice(head, now.length - tail);
  const same = (list) => list.map((line) => [" ", line]);
  return folded([...same(old.slice(0, head)), ...middle(a, b), ...same(old.slice(old.length - tail))]);
}

function middle(a, b) {
  if (a.length > MOST || b.length > MOST) return [...a.map((line) => ["-", line]), ...b.map((line) => ["+", line])];
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const out = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) out.push([" ", a[i++]]), j++;
    else if (j < b.length && (i === a.length || longest[i][j + 1] > longest[i + 1][j])) out.push(["+", b[j++]]);
    else out.push(["-", a[i++]]);
  }
  return out;
}

/** Long stretches that are the same are left out but for their ends. */
function folded(list) {
  const out = [];
  for (let at = 0; at < list.length; ) {
    let end = at;
    while (end < list.length && list[end][0] === " ") end++;
    if (end - at > 8) {
      out.push(...list.slice(at, at + 3), [" ", `… ${plural(end - at - 6, "line")} the same`], ...list.slice(end - 3, end));
      at = end;
    } else {
      end = Math.max(end, at + 1);
      out.push(...list.slice(at, end));
      at = end;
    }
  }
  return out;
}

/** JSON laid out; nothing for what is none. */
function pretty(text) {
  try {
    return /^\s*[{[]/.test(text) ? JSON.stringify(JSON.parse(text), null, 2) : "";
  } catch {
    return "";
  }
}
