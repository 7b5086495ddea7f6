#!/usr/bin/env bash
# A katlit run that SLURM may stop and start again: `sbatch slurm.sh fit -c …`. Adapt the sizes, and give the same ones
# to the trainer (--trainer.num_nodes=4 --trainer.devices=8).
#SBATCH --job-name=katlit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#
# 300 seconds before the time limit, and when the job is preempted, the tasks get SIGTERM. They finish an optimizer step,
# write a checkpoint and end with 143; the job then goes back into the queue, and from that checkpoint on.
set -uo pipefail
# Started again, label asks only for what it lacks; it is not requeued, for where one task fails the others get SIGTERM.
if [ "${1-}" != fit ]; then exec srun --kill-on-bad-exit=1 katlit "$@"; fi
srun katlit "$@" --ckpt_path=auto
status=$?
if [ "$status" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
