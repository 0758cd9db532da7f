// Which calls a filter's words let through: "post 5xx plugin:greet is:failed /orders". All words must fit.
const MARKS = { failed: "failed", stopped: "stopped" };

function test(word) {
  const [, key, value] = /^(plugin|is|status|method|not):(.+)$/.exec(word) || [];
  if (key === "plugin") return (call) => Object.keys(call.plugins).some((name) => name.toLowerCase().includes(value));
  if (key === "is" && value === "replay") return (call) => call.replay_of != null;
  if (key === "is" && value === "noted") return (call) => call.notes > 0;
  if (key === "is") return (call) => call.mark === MARKS[value];
  if (key === "status") return test(value);
  if (key === "method") return (call) => call.method.toLowerCase() === value;
  if (key === "not") {
    const other = test(value);
    return (call) => !other(call);
  }
  if (/^[1-5]xx$/.test(word)) return (call) => Math.floor((call.status || 0) / 100) === Number(word[0]);
  if (/^[1-5]\d\d$/.test(word)) return (call) => String(call.status) === word || call.target.includes(word);
  return (call) =>
    call.target.toLowerCase().includes(word) ||
    call.method.toLowerCase() === word ||
    Object.keys(call.plugins).some((name) => name.toLowerCase().includes(word));
}

export function filtered(calls, text) {
  const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map(test);
  return tests.length ? calls.filter((call) => tests.every((fits) => fits(call))) : calls;
}
