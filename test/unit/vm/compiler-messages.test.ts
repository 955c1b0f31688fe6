import { describe, expect, it } from 'vitest';
import { countMessages, firstErrorPlace, messagesOf } from '../../../src/vm/compiler-messages.ts';

/** As make, gcc 12 and modpost said of a module with a mistake. */
const said = `make: Entering directory '/usr/src/linux-headers-6.12'
  CC [M]  /tmp/x/adder.o
/tmp/x/adder.c: In function 'adder_write':
/tmp/x/adder.c:103:40: warning: unused variable 'x' [-Wunused-variable]
  103 |         int x = 5;
      |             ^
/tmp/x/adder.c:110:9: error: implicit declaration of function 'mutex_unlok'
  110 |         mutex_unlok(&adder->lock);
      |         ^~~~~~~~~~~
make[3]: *** [/usr/src/scripts/Makefile.build:249: /tmp/x/adder.o] Error 1
make: Leaving directory '/usr/src/linux-headers-6.12'
`;

describe('what the compiler said', () => {
  it('is left, without what make says of its own work', () => {
    const messages = messagesOf(said);
    expect(messages.split('\n')[0]).toBe("/tmp/x/adder.c: In function 'adder_write':");
    expect(messages).not.toMatch(/make|CC \[M\]/);
    expect(messages).toContain('mutex_unlok(&adder->lock);');
  });

  it('is counted by kind', () => {
    expect(countMessages(said, 'error')).toBe(1);
    expect(countMessages(said, 'warning')).toBe(1);
    expect(countMessages('ERROR: modpost: "no_such" [x.ko] undefined!', 'error')).toBe(1);
    expect(countMessages('x.c:1:10: fatal error: no.h: No such file', 'error')).toBe(1);
  });

  it('has its first error at a line, not at that of a warning', () => {
    const file = '/tmp/x/adder.c';
    expect(firstErrorPlace(said)).toEqual({ file, line: 110, column: 9 });
    expect(firstErrorPlace('x.c:7: error: old form')).toEqual({ file: 'x.c', line: 7 });
    expect(firstErrorPlace('ERROR: modpost: "no_such" [x.ko] undefined!')).toBeUndefined();
  });
});
