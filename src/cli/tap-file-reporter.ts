/** vitest's TAP, into a file: vitest itself prints it among whatever tests print. */
import { writeFileSync } from 'node:fs';
import { TapReporter, type TestModule, type Vitest } from 'vitest/node';
import { tapFileVariable } from './vitest.ts';

export default class TapFileReporter extends TapReporter {
  readonly #lines: string[] = [];

  override onInit(vitest: Vitest): void {
    const logger = { log: (line: string) => this.#lines.push(line) };
    super.onInit(
      new Proxy(vitest, {
        get(target, name) {
          if (name === 'logger') return logger;
          const value: unknown = Reflect.get(target, name, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      }),
    );
  }

  override onTestRunEnd(modules: readonly TestModule[]): void {
    super.onTestRunEnd(modules);
    const file = process.env[tapFileVariable];
    if (!file) throw new Error(`expected ${tapFileVariable} to name a file, got none`);
    writeFileSync(file, `${this.#lines.join('\n')}\n`);
  }
}
