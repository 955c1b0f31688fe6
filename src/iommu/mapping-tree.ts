import type { AccessSlot } from '../keys/key-slot.ts';
import type { Gpa } from '../memory/guest-memory.ts';
import type { Rights } from './domain.ts';

/** A run of addresses that one MAP request mapped; `end` is the last address, inclusive. */
export interface Mapping {
  readonly start: number;
  readonly end: number;
  /** Where `start` leads. */
  readonly address: Gpa;
  readonly rights: Rights;
  /** The target is device registers, not memory (VIRTIO_IOMMU_MAP_F_MMIO). */
  readonly mmio: boolean;
  /** Where the translation says it: what the data goes through. A guest's mappings have none. */
  readonly slot?: AccessSlot | undefined;
  /** Of that slot, when the mapping was made. */
  readonly generation?: number | undefined;
}

interface Node {
  readonly mapping: Mapping;
  readonly priority: number;
  /** Mappings in the tree under this node, itself included. */
  size: number;
  left: Tree;
  right: Tree;
}

type Tree = Node | undefined;

/**
 * Mappings that do not overlap, in the order of their addresses: a treap (Seidel and Aragon,
 * "Randomized Search Trees", 1996). Look-up, insertion, and the removal of a whole range take
 * expected O(log n) steps. Priorities are random, so no order of requests makes it degenerate.
 */
export class MappingTree {
  #root: Tree;

  get size(): number {
    return sizeOf(this.#root);
  }

  /** The mapping that holds `address`. */
  at(address: number): Mapping | undefined {
    return this.within(address, address);
  }

  /** A mapping that holds any address from `start` to `end`, inclusive. */
  within(start: number, end: number): Mapping | undefined {
    let node = this.#root;
    while (node !== undefined) {
      if (end < node.mapping.start) node = node.left;
      else if (start > node.mapping.end) node = node.right;
      else return node.mapping;
    }
    return undefined;
  }

  /** No mapping may overlap the new one: {@link within} says so. */
  insert(mapping: Mapping): void {
    this.#root = inserted(this.#root, {
      mapping,
      priority: Math.random(),
      size: 1,
      left: undefined,
      right: undefined,
    });
  }

  /** Removes the mappings that start from `start` to `end`, inclusive; answers how many they were. */
  remove(start: number, end: number): number {
    const [before, rest] = split(this.#root, start);
    const [removed, after] = split(rest, end + 1);
    this.#root = join(before, after);
    return sizeOf(removed);
  }

  /** In the order of their addresses. */
  *[Symbol.iterator](): Generator<Mapping> {
    const above: Node[] = [];
    let node = this.#root;
    while (node !== undefined || above.length > 0) {
      for (; node !== undefined; node = node.left) above.push(node);
      const next = above.pop() as Node;
      yield next.mapping;
      node = next.right;
    }
  }
}

function sizeOf(tree: Tree): number {
  return tree === undefined ? 0 : tree.size;
}

function resized(node: Node): Node {
  node.size = 1 + sizeOf(node.left) + sizeOf(node.right);
  return node;
}

function inserted(tree: Tree, node: Node): Node {
  if (tree === undefined) return node;
  const { start } = node.mapping;
  if (node.priority > tree.priority) {
    [node.left, node.right] = split(tree, start);
    return resized(node);
  }
  if (start < tree.mapping.start) tree.left = inserted(tree.left, node);
  else tree.right = inserted(tree.right, node);
  tree.size++;
  return tree;
}

/** The mappings that start before `address`, and the others. */
function split(tree: Tree, address: number): [Tree, Tree] {
  if (tree === undefined) return [undefined, undefined];
  if (tree.mapping.start < address) {
    const [before, after] = split(tree.right, address);
    tree.right = before;
    return [resized(tree), after];
  }
  const [before, after] = split(tree.left, address);
  tree.left = after;
  return [before, resized(tree)];
}

/** All of `before` lies before all of `after`. */
function join(before: Tree, after: Tree): Tree {
  if (before === undefined) return after;
  if (after === undefined) return before;
  if (before.priority > after.priority) {
    before.right = join(before.right, after);
    return resized(before);
  }
  after.left = join(before, after.left);
  return resized(after);
}
