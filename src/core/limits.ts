/** Bounds on what an archive may ask for. Every number here can be set per fetch. */

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB
export const TiB = 1024 * GiB

/** How an archive is judged: `strict` takes what is small and plain, `image` makes a faithful root filesystem, `data` plain files. */
export const profiles = ['strict', 'image', 'data'] as const
export type Profile = (typeof profiles)[number]

/** Bounds for one archive. Sizes in bytes. */
export type UnpackLimits = {
  /** Entries of any kind. */
  filesMax: number
  /** Bytes of one regular file (its apparent size, holes included). */
  fileBytesMax: number
  /** Bytes of all regular files together. */
  totalBytesMax: number
  /** Output bytes for each compressed byte; looked at once 64 MiB are out. */
  ratioMax: number
  /** Path components below the root. */
  depthMax: number
}

/** Bounds that hold in every profile (spec "unpack", section Profiles, "Further bounds"). */
export const archiveBounds = {
  pathBytesMax: 4096,
  componentBytesMax: 255,
  metaEntryBytesMax: MiB,
  metaTotalBytesMax: 64 * MiB,
  xattrValueBytesMax: 64 * KiB,
  linksPerInodeMax: 65_000,
  ratioCheckedFromBytes: 64 * MiB,
} as const

/** The limits of each profile (spec "unpack", section Profiles); `total` of `image` and `data` is also held to the free space. */
export const profileLimits: Record<Profile, UnpackLimits> = {
  strict: {
    filesMax: 10_000,
    fileBytesMax: 100 * MiB,
    totalBytesMax: 10 * GiB,
    ratioMax: 100,
    depthMax: 256,
  },
  image: {
    filesMax: 2_000_000,
    fileBytesMax: TiB,
    totalBytesMax: TiB,
    ratioMax: 1000,
    depthMax: 256,
  },
  data: {filesMax: 2_000_000, fileBytesMax: TiB, totalBytesMax: TiB, ratioMax: 1000, depthMax: 256},
}

/**
 * A disk is mostly zeros, which compress at any ratio and come out as holes: what bounds it is its size.
 */
export const diskLimits: Pick<UnpackLimits, 'totalBytesMax' | 'ratioMax'> = {
  totalBytesMax: 64 * TiB,
  ratioMax: 1e6,
}

/** Limits a person gave; what is absent comes from the profile. */
export type LimitOverrides = Partial<UnpackLimits>

export function resolveLimits(profile: Profile, overrides: LimitOverrides): UnpackLimits {
  return {...profileLimits[profile], ...overrides}
}
