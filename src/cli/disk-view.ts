/** Progress of work on disk images: a bar on a terminal, nothing anywhere else. */
import {systemClock} from '../core/clock.ts'
import {openStreamView} from './stream-view.ts'

export type DiskView = {
  onProgress: (progress: {doneBytes: number; totalBytes: number}) => void
  close: () => void
}

/** Opens the view; `what` is a noun for the work ("publish"). */
export async function openDiskView(
  what: string,
  {isJson, isQuiet}: {isJson: boolean; isQuiet: boolean},
): Promise<DiskView> {
  const isShown = !isJson && !isQuiet && process.stdout.isTTY
  const mode = isShown ? 'terminal' : 'silent'
  return await openStreamView({mode, stream: process.stdout, clock: systemClock, what})
}
