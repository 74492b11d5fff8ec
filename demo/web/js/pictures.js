// Pictures and bundle folders that are dropped, pasted or chosen.

/** Call `onPicture(file)` or `onFolder({path: File})` for what is dropped, pasted or chosen. */
export function listen({ drop, file, folder, onPicture, onFolder }) {
  file.addEventListener("change", () => {
    if (file.files.length) onPicture(file.files[0]);
    file.value = ""; // so that the same file can be chosen again
  });
  folder.addEventListener("change", () => {
    if (folder.files.length) onFolder(byPath([...folder.files].map((entry) => [entry.webkitRelativePath, entry])));
    folder.value = "";
  });
  addEventListener("paste", (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])];
    if (pasted.length) {
      event.preventDefault();
      onPicture(pasted[0]);
    }
  });
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) drop.classList.remove("over");
  });
  addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const entry = items[0]?.webkitGetAsEntry?.();
    if (entry?.isDirectory) onFolder(byPath(await filesOf(entry)));
    else if (event.dataTransfer.files.length) onPicture(event.dataTransfer.files[0]);
  });
}

/** Paths relative to the folder itself, however deeply it is nested. */
function byPath(pairs) {
  return Object.fromEntries(pairs.map(([path, file]) => [path.split("/").slice(1).join("/"), file]));
}

async function filesOf(directory) {
  const found = [];
  const reader = directory.createReader();
  for (;;) {
    // A reader returns a few entries at a time.
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const entry of entries) {
      if (entry.isDirectory) found.push(...(await filesOf(entry)));
      else {
        const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
        found.push([entry.fullPath.replace(/^\//, ""), file]);
      }
    }
  }
}
