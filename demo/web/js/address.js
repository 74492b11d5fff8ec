// Settings in the page's address.
import { PageError } from "./errors.js";

/** Return {bundle: {address}, wanted}; throw PageError for a bundle on another host. */
export function readAddress() {
  const query = new URLSearchParams(location.search);
  const url = new URL(query.get("bundle") ?? "bundle/", location.href);
  if (url.origin !== location.origin) throw new PageError(`?bundle=${query.get("bundle")} is on another host`);
  const threads = Number(query.get("threads"));
  return {
    bundle: { address: url.href },
    wanted: {
      precision: query.get("precision") ?? undefined,
      backend: query.get("backend") ?? undefined,
      pixels: query.get("pixels") ?? undefined,
      threads: Number.isInteger(threads) && threads > 0 ? threads : undefined,
    },
  };
}
