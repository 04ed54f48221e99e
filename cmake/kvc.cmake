# Common flags and the two helpers every folder uses.
add_library(kvc_flags INTERFACE)
target_include_directories(kvc_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(kvc_flags INTERFACE _GNU_SOURCE)
target_compile_options(kvc_flags INTERFACE -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes
	-Wpointer-arith -Wvla -Wformat=2 -Wno-unused-parameter -fno-strict-aliasing)
if(KVC_SANITIZE)
	target_compile_options(kvc_flags INTERFACE -fsanitize=${KVC_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
	target_link_options(kvc_flags INTERFACE -fsanitize=${KVC_SANITIZE})
endif()
if(KVC_FUZZ)
	target_compile_options(kvc_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all)
	target_link_options(kvc_flags INTERFACE -fsanitize=address,undefined)
endif()

# kvc_module(NAME SOURCES... LINK libs...): a static library kvc_NAME of one folder.
function(kvc_module name)
	cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
	add_library(kvc_${name} STATIC ${arg_SOURCES})
	target_link_libraries(kvc_${name} PUBLIC kvc_flags ${arg_LINK})
endfunction()

# Long forms of tests (environment KVC_LONG=1) take hours: so that ctest lets them.
option(KVC_LONG "Time-outs for the long forms of the tests" OFF)
function(kvc_test_timeout name seconds)
	if(KVC_LONG)
		math(EXPR seconds "${seconds} * 50")
	endif()
	set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds})
endfunction()

# kvc_test(NAME SOURCES... LINK libs... [PURE] [LABEL unit|conform|...] [TIMEOUT s]): a cmocka program, run by ctest.
# PURE: one thread, and no clock, socket, process or file that it writes. Only such tests (label `pure`) may run side by side, which tools/check does; all
# others run alone: many hold deadlines, and two cores have no room for two of them. One thread has no race either: not with KVC_SANITIZE=thread.
function(kvc_test name)
	cmake_parse_arguments(arg "PURE" "LABEL;TIMEOUT" "SOURCES;LINK;ARGS" ${ARGN})
	if(NOT arg_LABEL)
		set(arg_LABEL unit)
	endif()
	if(NOT arg_TIMEOUT)
		set(arg_TIMEOUT 120)
	endif()
	add_executable(${name} ${arg_SOURCES})
	target_link_libraries(${name} PRIVATE kvc_flags ${arg_LINK} PkgConfig::CMOCKA Threads::Threads)
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
	if(arg_PURE AND KVC_SANITIZE MATCHES thread)
		set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL TRUE)
		return()
	endif()
	add_test(NAME ${name} COMMAND ${name} ${arg_ARGS} WORKING_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
	if(arg_PURE)
		list(APPEND arg_LABEL pure)
	endif()
	set_tests_properties(${name} PROPERTIES LABELS "${arg_LABEL}")
	kvc_test_timeout(${name} ${arg_TIMEOUT})
endfunction()

# kvc_python_test(NAME SCRIPT [ARGS...] [LABEL ...] [TIMEOUT s]): a Python 3 script (standard library only) against our real programs.
# KVC_SLOW stretches waits in sanitizer builds.
find_package(Python3 3.9 REQUIRED COMPONENTS Interpreter)
function(kvc_python_test name script)
	cmake_parse_arguments(arg "" "LABEL;TIMEOUT" "ARGS" ${ARGN})
	if(NOT arg_TIMEOUT)
		set(arg_TIMEOUT 600)
	endif()
	set(slow 1)
	if(KVC_SANITIZE)
		set(slow 6)
	endif()
	add_test(NAME ${name} COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${arg_ARGS}
		WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
	set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} SKIP_RETURN_CODE 77
		ENVIRONMENT "KVC_BUILD=${CMAKE_BINARY_DIR};KVC_SLOW=${slow}")
	kvc_test_timeout(${name} ${arg_TIMEOUT})
endfunction()
