/** A broken promise inside imgstore itself; never the user's doing. The door exits 70 for it. */
export class BugError extends Error {
  override readonly name = 'BugError'
}

/** Throws `BugError` when `condition` is false. `why` says why it must hold. */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) throw new BugError(`this is a bug in imgstore: ${why}`)
}
