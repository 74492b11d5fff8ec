/** What a user can mend: one line that names the thing and the cure. */
export class PageError extends Error {}

/** The first line of whatever was thrown. */
export function line(error) {
  const text = String(error?.message ?? error).split("\n")[0].trim();
  return text || error?.name || "unknown error";
}
