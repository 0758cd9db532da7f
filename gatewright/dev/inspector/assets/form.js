// A form made of a JSON Schema, as far as configurations need one; what is beyond it is written as JSON.
import { html, useState } from "./lib.js";

/** A schema with its references followed, and the first of its alternatives that isn't null. */
function resolved(schema, root, depth = 0) {
  if (depth > 20 || !schema) return {};
  if (schema.$ref) return resolved(schema.$ref.split("/").slice(1).reduce((part, name) => part?.[name], root), root, depth + 1);
  const choices = schema.anyOf || schema.oneOf;
  if (choices) {
    const first = choices.find((choice) => choice.type !== "null");
    return { ...resolved(first, root, depth + 1), default: schema.default, title: schema.title, description: schema.description, optional: choices.length > 1 };
  }
  if (schema.allOf?.length === 1) return { ...resolved(schema.allOf[0], root, depth + 1), default: schema.default };
  return schema;
}

/** What a configuration begins with: what is required, and defaults. */
export function initial(schema, root) {
  const known = resolved(schema, root);
  if (known.default !== undefined) return known.default;
  if (known.enum) return known.enum[0];
  if (known.type === "object" || known.properties)
    return Object.fromEntries((known.required || []).map((name) => [name, initial(known.properties?.[name], root)]));
  return { string: "", integer: 0, number: 0, boolean: false, array: [] }[known.type] ?? null;
}

export function Form({ schema, value, onChange }) {
  return html`<div class="form"><${Fields} schema=${resolved(schema, schema)} root=${schema} value=${value} onChange=${onChange} path="config" /></div>`;
}

function Fields({ schema, root, value, onChange, path }) {
  const entries = Object.entries(schema.properties || {});
  if (!entries.length) return html`<p class="dim">It declares no fields: write the configuration as JSON.</p>`;
  const table = value && typeof value === "object" && !Array.isArray(value) ? value : {};
  const required = new Set(schema.required || []);
  return entries.map(([name, part]) => {
    const known = resolved(part, root);
    const set = (next) => {
      const copy = { ...table };
      if (next === undefined) delete copy[name];
      else copy[name] = next;
      onChange(copy);
    };
    return html`<${Field} key=${name} name=${name} schema=${known} root=${root} value=${table[name]} required=${required.has(name)} onChange=${set} path=${`${path}.${name}`} />`;
  });
}

function Field({ name, schema, root, value, required, onChange, path }) {
  const hint = [schema.description, schema.default !== undefined && schema.default !== null ? `default: ${JSON.stringify(schema.default)}` : "", required ? "required" : ""].filter(Boolean).join(" · ");
  const label = html`<span class="fieldname">${name}</span>${hint && html`<span class="dim"> ${hint}</span>`}`;
  const shown = value === undefined ? (schema.default ?? "") : value;
  if (schema.enum) {
    return html`<label>${label}<select value=${JSON.stringify(shown)} onChange=${(event) => onChange(JSON.parse(event.target.value))}>
      ${schema.enum.map((choice) => html`<option value=${JSON.stringify(choice)}>${String(choice)}</option>`)}</select></label>`;
  }
  if (schema.type === "boolean") {
    return html`<label class="check"><input type="checkbox" checked=${!!shown} onChange=${(event) => onChange(event.target.checked)} />${label}</label>`;
  }
  if (schema.type === "integer" || schema.type === "number") {
    return html`<label>${label}<input type="number" step=${schema.type === "integer" ? 1 : "any"} min=${schema.minimum} max=${schema.maximum} value=${shown}
      onInput=${(event) => onChange(event.target.value === "" ? undefined : Number(event.target.value))} /></label>`;
  }
  if (schema.type === "string") {
    const secret = schema.format === "password" || /pass|secret|key$|token/i.test(name);
    return html`<label>${label}<input type=${secret ? "password" : "text"} autocomplete="off" value=${shown}
      onInput=${(event) => onChange(event.target.value === "" && !required ? undefined : event.target.value)} /></label>`;
  }
  if (schema.type === "object" && schema.properties) {
    return html`<fieldset><legend>${label}</legend><${Fields} schema=${schema} root=${root} value=${value} onChange=${onChange} path=${path} /></fieldset>`;
  }
  return html`<${Json} label=${label} value=${value ?? schema.default} onChange=${onChange} />`;
}

/** Lists, mappings and what else has no field of its own. */
function Json({ label, value, onChange }) {
  const [text, setText] = useState(value === undefined ? "" : JSON.stringify(value));
  const [bad, setBad] = useState(false);
  const type = (next) => {
    setText(next);
    try {
      onChange(next.trim() ? JSON.parse(next) : undefined);
      setBad(false);
    } catch {
      setBad(true);
    }
  };
  return html`<label>${label}<textarea rows="2" spellcheck="false" aria-invalid=${bad ? "true" : "false"} value=${text} onInput=${(event) => type(event.target.value)} placeholder="JSON"></textarea></label>`;
}
