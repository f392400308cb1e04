# SPDX-License-Identifier: Apache-2.0
"""`itx plan`: a run's programs compiled for TPUs that are not here, and what they take."""
