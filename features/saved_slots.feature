Feature: Saved slots
  The cached blocks of a slot are saved to a file, restored after a restart, or erased.

  Scenario: a saved slot is restored by another server
    When I request a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief", "n_predict": 4, "id_slot": 2, "temperature": 0}
      """
    And I save slot 2 as "times.bin"
    Then the status is 200
    And the response's "id_slot" is 2
    And the response's "filename" is "times.bin"
    And the response's "n_saved" is 38
    Given a server with contexts of 64 tokens
    When I restore slot 1 from "times.bin"
    Then the status is 200
    And the response's "n_restored" is 38
    When I request a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief", "n_predict": 4, "cache_prompt": true, "temperature": 0}
      """
    Then the response's "tokens_cached" is 34

  Scenario: the prompt of an erased slot is recomputed
    When I request a completion:
      """
      {"prompt": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse", "n_predict": 0, "id_slot": 3}
      """
    And I erase slot 3
    Then the status is 200
    And the response's "n_erased" is 22
    When I request a completion:
      """
      {"prompt": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse", "n_predict": 0, "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 0

  Scenario: a saved slot keeps its cache salt
    When I request a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "id_slot": 1, "cache_salt": "mine"}
      """
    And I save slot 1 as "salted.bin"
    Given a server with contexts of 64 tokens
    When I restore slot 0 from "salted.bin"
    And I request a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 0
    When I request a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "cache_prompt": true, "cache_salt": "mine"}
      """
    Then the response's "tokens_cached" is 19

  Scenario: restoring a slot of another model is rejected
    When I save slot 0 as "another.bin"
    Given a server whose model supports infill
    When I restore slot 0 from "another.bin"
    Then the status is 400
    And the error's param is "filename"
    And the error message contains "another model"

  Scenario Outline: an invalid slot action is rejected: <path> <body>
    Given a file "nonsense.bin" that is not a saved slot
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error message contains "<message>"

    Examples:
      | path                    | body                         | param    | message                    |
      | /slots/0                | {"filename": "a"}            | action   | use save, restore or erase            |
      | /slots/0?action=keep    | {"filename": "a"}            | action   | use save, restore or erase            |
      | /slots/0?action=save    | {}                           | filename | invalid filename           |
      | /slots/0?action=save    | {"filename": "../a"}         | filename | invalid filename           |
      | /slots/0?action=restore | {"filename": "a.part"}       | filename | invalid filename           |
      | /slots/0?action=restore | {"filename": "nothing.bin"}  | filename | file not found             |
      | /slots/0?action=restore | {"filename": "nonsense.bin"} | filename | first line is not          |
      | /slots/9?action=erase   | {}                           | id_slot  | slot not found: 9          |
      | /slots/x?action=erase   | {}                           | id_slot  | not a slot number          |

  Scenario: a slot action gets 501 without --slot-save-path
    Given a server with all optional endpoints disabled
    When I erase slot 0
    Then the status is 501
    And the error message contains "--slot-save-path"
