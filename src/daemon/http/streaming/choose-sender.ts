import {sendPlainly} from './send.ts'
import type {Sender} from './sender.ts'
import {openFastSender} from './splice.ts'

/** The sender that a setting asks for: `auto` is the best that this host has. */
export function chooseSender(wanted: 'auto' | 'plain'): {name: string; sender: Sender} {
  const fast = wanted === 'auto' ? openFastSender({fallback: sendPlainly}) : undefined
  return fast ? {name: 'splice', sender: fast} : {name: 'plain', sender: sendPlainly}
}
