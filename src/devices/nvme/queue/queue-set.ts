import type { CompletionQueue } from './completion-queue.ts';
import type { SubmissionQueue } from './submission-queue.ts';

/** The queues that there are, by identifier; 0 is the admin queue's. */
export class QueueSet {
  readonly submission: (SubmissionQueue | undefined)[] = [];
  readonly completion: (CompletionQueue | undefined)[] = [];
  /** The same without gaps, for the paths that are hot. */
  readonly submissions: SubmissionQueue[] = [];
  readonly completions: CompletionQueue[] = [];

  addCompletion(queue: CompletionQueue): void {
    this.completion[queue.id] = queue;
    this.completions.push(queue);
  }

  addSubmission(queue: SubmissionQueue): void {
    this.submission[queue.id] = queue;
    this.submissions.push(queue);
    queue.completions.users++;
  }

  removeSubmission(queue: SubmissionQueue): void {
    this.submission[queue.id] = undefined;
    this.submissions.splice(this.submissions.indexOf(queue), 1);
    queue.completions.users--;
  }

  removeCompletion(queue: CompletionQueue): void {
    this.completion[queue.id] = undefined;
    this.completions.splice(this.completions.indexOf(queue), 1);
  }

  /** Asks whether a completion queue and a submission queue, as they are now, are still there. */
  stands(completions: CompletionQueue, sqid: number): () => boolean {
    const submissions = this.submission[sqid];
    return () =>
      this.completion[completions.id] === completions && this.submission[sqid] === submissions;
  }

  clear(): void {
    this.submission.length = 0;
    this.completion.length = 0;
    this.submissions.length = 0;
    this.completions.length = 0;
  }
}
