// The library that the page is made with, and small things that all parts use.
import { h, render, createContext } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { h, render, createContext };
export * from "./vendor/hooks.js";

/** A duration in a form that fits a column. */
export function duration(seconds) {
  if (seconds == null || seconds < 0) return "–";
  if (seconds >= 10) return `${seconds.toFixed(1)} s`;
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  const ms = seconds * 1000;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour12: false });
}

export function statusClass(status) {
  return status == null ? "none" : `s${Math.floor(status / 100)}`;
}

/** Outcomes by what they mean for the request. */
export function outcomeClass(outcome) {
  return { "went on": "good", answered: "stop", failed: "bad", "timed out": "bad", abandoned: "bad", skipped: "warn" }[outcome] || "dim";
}

export const REDACTED = "[redacted]";
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
