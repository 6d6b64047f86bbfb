/*
 * fault_points.h
 *		Every fault point: its name, the side that reaches it, and whether it is
 *		one where an ERROR may be raised.
 *
 * No include guard: included for what POINT makes of it. t/005_crash.pl reads
 * this file and crashes at each point; .ci/lint compares it with the source.
 */
POINT("coordinator-before-send", "coordinator", true)
POINT("coordinator-after-send", "coordinator", true)
POINT("coordinator-before-branch-row", "coordinator", true)
POINT("coordinator-after-branch-row", "coordinator", true)
POINT("coordinator-before-commit", "coordinator", true)
POINT("coordinator-after-commit", "coordinator", false)
POINT("participant-before-join", "participant", true)
POINT("participant-before-phase-one", "participant", true)
POINT("participant-before-commit", "participant", true)
POINT("participant-after-phase-one", "participant", false)
POINT("participant-before-settle", "participant-settle", true)
POINT("participant-during-settle", "participant-settle", true)
POINT("participant-during-compensation", "participant-settle", true)
POINT("participant-after-settle", "participant-settle", true)
POINT("worker-before-settle", "worker", true)
POINT("worker-after-settle", "worker", true)
POINT("worker-before-finish", "worker", true)
POINT("worker-after-finish", "worker", true)
POINT("xa-before-send", "xa-coordinator", true)
POINT("xa-after-send", "xa-coordinator", true)
POINT("xa-before-prepare", "xa-coordinator", true)
POINT("xa-after-prepare", "xa-coordinator", true)
POINT("xa-before-finish", "xa-settle", true)
POINT("xa-after-finish", "xa-settle", true)
POINT("tcc-before-try", "tcc-participant", true)
POINT("tcc-after-try", "tcc-participant", true)
POINT("tcc-before-local-confirm", "tcc-coordinator", true)
POINT("tcc-before-confirm", "tcc-settle", true)
POINT("tcc-after-confirm", "tcc-settle", true)
POINT("tcc-before-cancel", "tcc-settle-rollback", true)
POINT("tcc-after-cancel", "tcc-settle-rollback", true)
POINT("shared-before-register", "shared-coordinator", true)
POINT("shared-after-register", "shared-participant", true)
POINT("shared-before-vote", "shared-coordinator", true)
POINT("shared-after-vote", "shared-coordinator", true)
POINT("shared-before-decision", "shared-coordinator", true)
