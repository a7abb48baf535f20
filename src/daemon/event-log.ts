import type {RunEvent} from '../core/image.ts'
import type {LogFields, Logger} from '../core/log.ts'

/**
 * Writes the history of runs to the log, one line an event: what went on as info, what was handled as a warning, what
 * someone must look at as an error with its code and hint.
 */
export function eventLogger(log: Logger): (event: RunEvent) => void {
  return (event) => {
    const fields = eventFields(event)
    switch (event.kind) {
      case 'transition':
        log.info(fields, 'state changed')
        break
      case 'retry':
        if (event.error?.code === 'space_low') log.warn(fields, 'image waits for space')
        else log.warn(fields, 'attempt failed and is tried again')
        break
      case 'failed':
        log.error(fields, 'image failed')
        break
      case 'held':
        log.warn(fields, 'image is held short of its goal')
        break
      case 'mended':
        log.warn(fields, 'state was mended')
        break
      case 'canceled':
        log.info(fields, 'run canceled')
        break
      case 'removed':
        log.info(fields, 'image removed')
        break
    }
  }
}

function eventFields(event: RunEvent): LogFields {
  const {error} = event
  return {
    run_id: event.run,
    image: event.image,
    step: event.step,
    attempt: event.attempt,
    from: event.from,
    to: event.to,
    duration_ms: event.durationMs,
    ...(error && {code: error.code, error: error.message, hint: error.hint}),
    ...(event.dueAt !== undefined && {due_at: new Date(event.dueAt).toISOString()}),
    ...event.detail,
  }
}
