/** Having an image taken down by a worker that can, where this process cannot unmount it. */
import {fail} from '../errors.ts'
import type {ImageName} from '../ids.ts'
import type {Goal} from '../image.ts'
import {setGoal} from './ask.ts'
import type {ImagesContext} from './context.ts'
import {settle, type SettleOptions} from './settle.ts'

/** Errors: image_busy when it is in use: it is to stay as it was then; those of settle. */
export async function takeDown(
  images: ImagesContext,
  name: ImageName,
  goal: Goal,
  options: SettleOptions,
): Promise<void> {
  const {signal, onEvent} = options
  const follow = {...(signal ? {signal} : {}), ...(onEvent ? {onEvent} : {})}
  await setGoal(images, name, 'STORED')
  const settled = await settle(images, name, follow)
  if (settled.status?.state === 'STORED') return
  if (settled.status?.state === 'ACTIVE' && goal === 'ACTIVE') {
    await setGoal(images, name, goal)
    await settle(images, name, follow)
  }
  const reason = settled.status?.held?.message ?? 'it could not be taken down'
  throw fail('image_busy', {name, reason})
}
