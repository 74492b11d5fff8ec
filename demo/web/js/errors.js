/** A mistake the user can correct: one line that says what is wrong and what to do. */
export class PageError extends Error {}

/** The first line of a thrown value. */
export function line(error) {
  const text = String(error?.message ?? error).split("\n")[0].trim();
  return text || error?.name || "unknown error";
}
