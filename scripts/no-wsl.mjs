// Stands in for the package wsl-utils in the bundle: imgstore runs on Linux as it is.
export const isWsl = false
