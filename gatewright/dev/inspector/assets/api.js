// What the page asks of `gatewright dev`. Requests that do something carry a header that no other site's form can send.
const OWN = { "X-Gatewright-Inspector": "1", "Content-Type": "application/json" };

async function answered(response) {
  const type = response.headers.get("Content-Type") || "";
  const content = type.includes("json") ? await response.json() : { error: (await response.text()).trim() };
  if (!response.ok || content.error) throw new Error(content.error || `${response.status}`);
  return content;
}

export const get = async (path) => answered(await fetch(`api/${path}`));
export const post = async (path, content = {}) =>
  answered(await fetch(`api/${path}`, { method: "POST", headers: OWN, body: JSON.stringify(content) }));

/** Follow what happens; gives a function that stops it. */
export function follow({ onCalls, onFacts, onState }) {
  const source = new EventSource("api/events");
  source.addEventListener("calls", (event) => onCalls(JSON.parse(event.data)));
  source.addEventListener("facts", () => onFacts());
  source.onopen = () => onState(true);
  source.onerror = () => onState(false);
  return () => source.close();
}
