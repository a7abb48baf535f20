import {sendPlainly} from './send.ts'
import type {Sender} from './sender.ts'

/** The sender that a setting asks for: `auto` is the best that this host has. */
export function chooseSender(_wanted: 'auto' | 'plain'): Promise<{name: string; sender: Sender}> {
  return Promise.resolve({name: 'plain', sender: sendPlainly})
}
