/** Failures to read what is served, as answers. The log says what happened; a client learns only that it did. */
import {toImgstoreError} from '../../../core/errors.ts'
import {answerError, answerText} from './answers.ts'
import type {Exchange} from './exchange.ts'
import type {StoreErrorKind} from './metrics.ts'

const messages: Record<StoreErrorKind, string> = {
  meta: 'store get_image failed',
  open_range: 'store open_range failed',
  manifest: 'store manifest error',
}

/** 500. A broken catalog is of the kind `manifest`, wherever it was met. */
export function answerStoreError(exchange: Exchange, error: unknown, met: StoreErrorKind): void {
  const isCatalog = toImgstoreError(error).code === 'catalog_invalid'
  const kind = isCatalog ? 'manifest' : met
  exchange.logFailure(messages[kind], error)
  if (exchange.route.family !== 'metadata' && exchange.route.family !== 'lease') {
    exchange.door.metrics.countStoreError(kind)
    answerError(exchange, 500)
    return
  }
  // The catalog's path and the system's words are nobody's business out there.
  const text = isCatalog ? 'manifest error: the image catalog is invalid' : 'internal error'
  answerText(exchange, 500, text)
}
