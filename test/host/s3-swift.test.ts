import {s3Suite} from '../contract/s3-suite.ts'
import {startSwift} from '../support/swift-server.ts'

const needs = [
  'program:swift-proxy-server',
  'program:swift-object-server',
  'program:swift-ring-builder',
] as const
s3Suite('OpenStack Swift', {needs, start: startSwift})
