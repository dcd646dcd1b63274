// Asks the server of this page.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  let answer;
  try {
    for (;;) {
      answer = await fetch(path, options);
      if (answer.status !== 503) break;
      await patience(answer, options.signal); // it is opening its model, or too many ask at once
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "No answer: the program behind this page has ended. Start it again: python -m recipes.demo");
  }
  const kind = answer.headers.get("Content-Type") || "";
  const content = kind.startsWith("application/json") ? await answer.json() : await answer.blob();
  if (!answer.ok) throw new Refusal(answer.status, content.error || `The answer was ${answer.status}.`);
  return content;
}

let tell = () => {};

/** What is told the sentence of an answer that says to ask again. */
export const whileWaiting = (told) => (tell = told);

/** Waits as long as an answer asks for; the last of it is given up where the program ends. */
async function patience(answer, signal) {
  const { error } = await answer.json();
  if (error?.includes("ending")) throw new TypeError(error);
  tell(error);
  await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
  signal?.throwIfAborted();
}

/** The token in the address becomes a cookie, and leaves the address. */
export async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  await ask("/api/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  history.replaceState(null, "", location.pathname + location.search);
}

export const post = (path, asked, signal) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked), signal });
