import {bucketSuite} from '../contract/bucket-suite.ts'
import {startSwift} from '../support/swift-server.ts'

const needs = [
  'program:swift-proxy-server',
  'program:swift-object-server',
  'program:swift-ring-builder',
] as const
bucketSuite('OpenStack Swift', {needs, start: startSwift})
