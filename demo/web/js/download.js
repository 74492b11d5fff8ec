// Lets the browser save a text as a file; nothing is sent anywhere.
const HELD_MS = 60000; // until the browser has surely saved it

/** Let the browser save a JSON text under a name. */
export function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), HELD_MS);
}
