/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/bench/bench.h"

int main(int argc, char **argv)
{
	return kvci_bench_main(argc, argv);
}
