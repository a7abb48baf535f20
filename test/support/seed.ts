/**
 * Where tests begin to choose by chance. Every run on a developer's machine explores; in CI it is the seed of record,
 * so that a commit is judged by itself. `IMGSTORE_TEST_SEED=n` replays one; tests print theirs.
 */
const seedOfRecord = 20_261_123

export function testSeed(): number {
  const given = process.env['IMGSTORE_TEST_SEED']
  if (given !== undefined) return Number(given)
  return process.env['CI'] === 'true' ? seedOfRecord : Date.now()
}
