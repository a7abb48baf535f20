import tseslint from 'typescript-eslint'

export default tseslint.config(
  {
    ignores: [
      ...['dist', 'coverage', 'node_modules', '.cache', '**/*.mjs'],
      ...['*.js', '{bin,scripts,test,bench}/**/*.js'],
    ],
  },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: {project: './tsconfig.test.json', tsconfigRootDir: import.meta.dirname},
    },
    rules: {
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        {considerDefaultExhaustiveForUnions: true},
      ],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        {allowNumber: true, allowBoolean: true},
      ],
      '@typescript-eslint/no-confusing-void-expression': ['error', {ignoreArrowShorthand: true}],
      // Types that state what a foreign value may be are wanted at boundaries.
      '@typescript-eslint/no-unnecessary-condition': ['error', {allowConstantLoopConditions: true}],
      '@typescript-eslint/consistent-type-definitions': 'off',
      // The environment is read in settings only, so that every value has one origin.
      'no-restricted-syntax': [
        'error',
        {
          selector: "MemberExpression[object.name='process'][property.name='env']",
          message: 'read the environment in core/settings.ts only',
        },
      ],
    },
  },
  {
    // What browsers run is JavaScript with types in comments, and its own library of types.
    files: ['src/daemon/http/page/ui/*.js'],
    languageOptions: {
      parserOptions: {
        project: './src/daemon/http/page/ui/tsconfig.json',
        tsconfigRootDir: import.meta.dirname,
      },
    },
  },
  {
    files: ['test/**', 'bench/**', 'scripts/**', 'src/core/settings.ts'],
    rules: {
      'no-restricted-syntax': 'off',
      '@typescript-eslint/no-unused-expressions': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off',
    },
  },
)
