export {
  type DebianImageForTests,
  type DebianImageWishes,
  debianImageForTests,
} from '../../src/testkit/debian-image.ts';
