// The table of subcommands.
#include <cstdio>

int main() {
  std::puts("onggi");
  return 0;
}
