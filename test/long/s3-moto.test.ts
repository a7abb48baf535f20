import {s3Suite} from '../contract/s3-suite.ts'
import {startMoto} from '../support/moto-server.ts'

s3Suite('moto', {
  needs: ['root', 'program:debootstrap', 'program:unshare', 'program:setpriv'],
  start: startMoto,
  // moto checks signatures over the decoded path, so it takes that of a key that needs encoding for a wrong one.
  path: 'debian/12/rootfs.tar',
})
